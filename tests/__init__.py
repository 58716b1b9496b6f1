"""The test suite of fastconv; `cases` names the problems, `rows` runs a kernel on one, `compare` holds the rules."""
