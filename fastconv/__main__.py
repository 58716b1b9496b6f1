"""`python -m fastconv` is the `fastconv` command."""

from fastconv.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
