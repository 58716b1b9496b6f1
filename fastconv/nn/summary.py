"""The table that `Sequential.summary` prints, in the classic format of Keras, with more columns on request."""
from __future__ import annotations

from typing import Any

LINE = 65
STOPS = (29, 55, 65)  # where the three columns end: 45 %, 85 % and all of the line
HEADERS = {"multiply_adds": "Multiply-adds", "bytes": "Bytes", "kernel": "Kernel"}
WIDTHS = {"multiply_adds": 15, "bytes": 14, "kernel": 46}


def _row(fields: list[str], stops: tuple[int, ...]) -> str:
    line = ""
    for field, stop in zip(fields, stops):
        if line:
            line = line[:-1] + " "
        line = (line + field)[:stop].ljust(stop)
    return line


def shape_text(shape: tuple[int, ...]) -> str:
    """An output shape with the batch axis, as Keras prints it."""
    return f"({', '.join(['None', *map(str, shape)])})" if shape else "(None,)"


def check_columns(columns: tuple[str, ...]) -> None:
    """Refuse a column that there is not."""
    for column in columns:
        if column not in HEADERS:
            raise ValueError(f"summary: unknown column {column!r}; there are {', '.join(HEADERS)}")


def table(model: Any, columns: tuple[str, ...], batch_size: int) -> str:
    """The lines of the table. `columns` adds any of multiply_adds (of one sample), bytes (weights and the outputs
    of one batch) and kernel (the last that ran)."""
    stops: tuple[int, ...] = STOPS
    for column in columns:
        stops = (*stops, stops[-1] + WIDTHS[column])
    width = stops[-1]
    lines = [f'Model: "{model.name}"', "_" * width,
             _row(["Layer (type)", "Output Shape", "Param #", *(HEADERS[c] for c in columns)], stops), "=" * width]
    for number, layer in enumerate(model.layers):
        extra = {"multiply_adds": f"{layer.multiply_adds:,}",
                 "bytes": f"{_bytes(layer, batch_size):,}",
                 "kernel": ", ".join(layer.kernels.ran.get("inference") or layer.kernels.ran.get("forward", []))}
        lines.append(_row([f"{layer.name} ({type(layer).__name__})", shape_text(layer.output_shape),
                           str(layer.parameters), *(extra[c] for c in columns)], stops))
        lines.append(("=" if number == len(model.layers) - 1 else "_") * width)
    total = sum(layer.parameters for layer in model.layers)
    trainable = sum(layer.parameters for layer in model.layers if layer.trainable)
    lines += [f"Total params: {total:,}", f"Trainable params: {trainable:,}",
              f"Non-trainable params: {total - trainable:,}", "_" * width]
    return "\n".join(lines)


def _bytes(layer: Any, batch_size: int) -> int:
    outputs = batch_size
    for size in layer.output_shape:
        outputs *= size
    return (layer.parameters + outputs) * layer.dtype.itemsize
