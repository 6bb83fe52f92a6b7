"""What ``make bench`` found, in words and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from advit.tables import Table

ALT = "Time against patches, images and categories, both axes logarithmic: ours, plain attention, published"
MARKS = {True: "yes", False: "no", None: ""}


def number(value: float | None) -> str:
    """Three significant digits; integers from 100 on."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def rows_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The measurements for print: ours, the opponent's, how many times better, and the target."""
    lines = [
        (
            r["measure"] + (f", {r['unit']}" if r["unit"] else ""), number(r["ours"]),
            f"{number(r['opponent'])} ({r['against']})".lstrip() if r["against"] else "",
            f"{number(r['ratio'])}x" if r["ratio"] else "", r["target"], MARKS[r["met"]],
        )
        for r in rows
    ]  # fmt: skip
    return pd.DataFrame(lines, columns=["measure", "ours", "against", "times better (below 1: worse)", "target", "met"])


def machine_sentence(machine: dict[str, Any]) -> str:
    """Where the numbers come from."""
    commit = (machine["commit"] or "no commit")[:10] + (", changed" if machine["dirty"] else "")
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)} on {machine['cores']} cores"
    return (
        f"{machine['processor']}, {machine['instructions']}, {threads}, PyTorch {machine['versions']['torch']}, "
        f"commit {commit}"
    )


def power(points: list[list[float]], first: bool = False) -> float:
    """Power of the growth of ``(size, time)`` between the last two points, or the first two."""
    (x0, y0), (x1, y1) = np.log(np.asarray(points, dtype=float)[:2] if first else np.asarray(points, dtype=float)[-2:])
    return float((y1 - y0) / (x1 - x0))


def growth_sentences(curves: dict[str, dict[str, list[list[float]]]]) -> str:
    """How each curve grows at its beginning and at its end."""
    parts = []
    for axis, found in curves.items():
        for name, points in found.items():
            sizes = [f"{x:.0f}" for x, _ in points]
            parts.append(
                f"{name}: {axis}^{power(points, first=True):.1f} from {sizes[0]} to {sizes[1]} {axis}, "
                f"{axis}^{power(points):.1f} from {sizes[-2]} to {sizes[-1]}"
            )
    return "Time grows as follows. " + "; ".join(parts) + "."


def speed_block(path: Path) -> str:
    """Markdown of README's section: the measurements that have a target, and the growth.

    Test: tests/test_readme.py
    """
    if not path.exists():
        return "`make bench` was not run yet.\n"
    found = json.loads(path.read_text(encoding="utf-8"))
    table = Table(rows_table([r for r in found["rows"] if r["target"]]), "").markdown().strip()
    where = f"`make bench` on {machine_sentence(found['machine'])}; all measurements: results/benchmarks.md."
    return f"{where}\n\n{table}\n\n![{ALT}](figures/benchmarks/growth.png)\n\n{growth_sentences(found['curves'])}\n"
