"""Write the README's tables from bench/results/*.json: no number in it is typed.

    python -m bench.readme [--check]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.harness import RESULTS

README = Path(__file__).parents[1] / "README.md"


def _speed(results: dict[str, Any]) -> str:
    """Ratios to PyTorch by layer and thread count."""
    c = results["conditions"]
    lines = [
        f"{c['cpu']} ({c['isa']}), PyTorch {c['versions']['torch']}, commit {c['commit']}; PyTorch's time over ours, "
        "minimum (median) of interleaved repeats; PyTorch in the better of its two layouts.",
        "",
        "| layer | threads | NCHW | NHWC | kernel | our error | PyTorch's |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results["rows"]:
        kernel = r["kernel"].removeprefix("conv2d_forward_").replace("__", ", ")
        error = max(r["errors"]["fastconv_nchw"], r["errors"]["fastconv_nhwc"])
        lines.append(
            f"| {r['layer']} | {r['threads']} | {r['ratio_nchw_min']:.1f}x ({r['ratio_nchw_median']:.1f}x) "
            f"| {r['ratio_nhwc_min']:.1f}x ({r['ratio_nhwc_median']:.1f}x) | {kernel} | {error:.0e} "
            f"| {r['errors']['torch_nchw']:.0e} |"
        )
    return "\n".join(lines)


def _training(results: dict[str, Any]) -> str:
    """Images a second for each thread count, and the ratio to PyTorch."""
    c = results["conditions"]
    lines = [
        f"{c['cpu']} ({c['isa']}), PyTorch {c['versions']['torch']} in the better of its two layouts, commit "
        f"{c['commit']}; turns interleaved, images a second at the median turn.",
        "",
        "| batch | threads | fastconv | PyTorch | ratio, fastest turns | ratio, median |",
        "|---|---|---|---|---|---|",
    ]
    for r in results["rows"]:
        lines.append(
            f"| {r['batch_size']} | {r['threads']} | {r['fastconv']:.0f} | {r['torch']:.0f} | {r['ratio_min']:.1f}x "
            f"| {r['ratio_median']:.1f}x |"
        )
    return "\n".join(lines)


def _accuracy(results: dict[str, Any]) -> str:
    """Test accuracy after each run of `fastconv train`."""
    lines = ["| digits | seed | test accuracy |", "|---|---|---|"]
    for r in results["rows"]:
        lines.append(f"| {r['data']} | {r['seed']} | {100 * r['accuracy']:.2f} % |")
    return "\n".join(lines)


#: Marker in the README -> (result file, writer).
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "speed": ("against_torch.json", _speed),
    "training": ("training.json", _training),
    "accuracy": ("accuracy.json", _accuracy),
}


def render(text: str) -> str:
    """`text` with each marked part replaced by its table."""
    for marker, (file, write) in TABLES.items():
        table = write(json.loads((RESULTS / file).read_text(encoding="utf-8")))
        pattern = re.compile(rf"(<!-- {marker}:begin -->\n).*?(<!-- {marker}:end -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"{README.name} has no part marked {marker}")
        text = pattern.sub(lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the README agrees with the results")
    args = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    wanted = render(text)
    if args.check:
        print("README agrees with bench/results" if text == wanted else "README differs: run python -m bench.readme")
        return int(text != wanted)
    README.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
