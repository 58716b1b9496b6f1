"""Races against other libraries: a guest of fastconv's public functions, imported by the `bench` command and bench/.

layers.py    layers by name or in the text grammar; their operands, float64 results and errors
timing.py    race(): rivals take turns in one process
peak.py      the multiply-add peak of the CPU, measured
peers/       one adapter a library, each importable only where that library is installed
contest.py   one layer: ours and the peers, verified and timed
report.py    a contest as lines of text
"""

from fastconv.benchmark.contest import convolution, ours_convolution, pool
from fastconv.benchmark.layers import SHORT, find, operands
from fastconv.benchmark.peers import PEERS, installed
from fastconv.benchmark.timing import race

__all__ = ["PEERS", "SHORT", "convolution", "find", "installed", "operands", "ours_convolution", "pool", "race"]
