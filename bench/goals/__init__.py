"""The goals of the forward CPU work: which layers, how each is measured, the table of goal, floor and measured.

lists.py      the layers of each line, and layers in no list
jobs.py       one measurement each, a dict of plain numbers
lines.py      the lines of the table: goal, floor, and how their number follows from the measurements
__main__.py   the command: measures what is missing, merges it into a file, prints the table
"""
