"""What `fit` and `evaluate` show: a bar per epoch on a terminal (tqdm), one line per epoch elsewhere."""
from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

# The bar's figures change at most this often; between two changes a step pays nothing for them.
REFRESH_SECONDS = 0.1


def _tqdm() -> Any:
    """tqdm where it is installed and the output is a terminal or a notebook, else None."""
    notebook = "ipykernel" in sys.modules
    if not notebook and not (hasattr(sys.stdout, "isatty") and sys.stdout.isatty()):
        return None
    try:
        if notebook:
            from tqdm.auto import tqdm
        else:
            from tqdm import tqdm
    except ImportError:
        return None
    return tqdm


def write(line: str) -> None:
    """One line on standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def counted(count: int, thing: str) -> str:
    """1 epoch, 2 epochs."""
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def figures(logs: Mapping[str, float]) -> str:
    """Metrics as text, always in the same order and width."""
    return "  ".join(f"{name} {value:.4f}" for name, value in logs.items())


class Progress:
    """Shows one epoch. `verbose`: 0 nothing, 1 a bar where one can be drawn, 2 one line per epoch."""

    def __init__(self, title: str, verbose: int, steps: int, samples: int | None) -> None:
        self.title, self.verbose, self.steps = title, verbose, steps
        self.samples_done = 0
        self.started = time.perf_counter()
        self.seconds = 0.0
        self._shown = 0.0
        make = _tqdm() if verbose == 1 else None
        self._bar = None
        if make is not None:
            self._unit = "img" if samples is not None else "step"
            self._bar = make(total=samples if samples is not None else steps, desc=title, unit=self._unit,
                             file=sys.stdout, leave=False, dynamic_ncols=True, mininterval=REFRESH_SECONDS)

    def step(self, samples: int, logs: Mapping[str, float] | None) -> None:
        """After a batch of `samples`; `logs` are the means so far (a bar may ask for them: see `due`)."""
        self.samples_done += samples
        if self._bar is not None:
            if logs is not None:
                self._bar.set_postfix({k: f"{v:.4f}" for k, v in logs.items()}, refresh=False)
            self._bar.update(samples if self._unit == "img" else 1)

    @property
    def due(self) -> bool:
        """Whether new figures would be shown now."""
        if self._bar is None:
            return False
        now = time.perf_counter()
        if now - self._shown < REFRESH_SECONDS:
            return False
        self._shown = now
        return True

    def trained(self) -> None:
        """The last batch is done: stop the clock before validation."""
        self.seconds = time.perf_counter() - self.started

    @property
    def rate(self) -> float:
        """Samples per second of training."""
        return self.samples_done / self.seconds if self.seconds > 0 else 0.0

    def end(self, steps: int, logs: Mapping[str, float]) -> None:
        """The epoch is over, validation included."""
        self.close()
        if self.verbose:  # a line holds what a bar on a narrow terminal cuts off
            write(f"{self.title}  {steps} updates  {figures(logs)}  {self.rate:,.0f} images/s  "
                  f"{self.seconds:.1f} s")

    def close(self) -> None:
        """Take the bar down, also after an interruption."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
