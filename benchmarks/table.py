"""The table of all measurements as Markdown."""

from __future__ import annotations

from typing import Any

import pandas as pd

from advit.tables import Table

NOTE = (
    "Times are medians of several runs, side by side in one process; the first run is not counted, and what takes more "
    "than three seconds runs twice at most. Memory is the growth of a fresh process's largest resident size over that "
    "with the inputs (extra), or that size itself (peak). Published: one layer's two losses with two divergences each, "
    "all N x N matrices stored, two backward passes; same values and gradients, up to the known factor 1 - eps. "
    "Literal: the public network's routing loop, grouped 11 x 11 SSIM and default layout, same losses."
)


def number(value: float | None) -> str:
    """Three significant digits; integers from 100 on."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def rows_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows for print."""
    marks = {True: "yes", False: "no", None: ""}
    return pd.DataFrame(
        [
            {
                "measure": r["measure"],
                "unit": r["unit"],
                "ours": number(r["ours"]),
                "against": r["against"],
                "theirs": number(r["opponent"]),
                "ratio": "" if r["ratio"] is None else f"{number(r['ratio'])}x",
                "target": r["target"],
                "met": marks[r["met"]],
            }
            for r in rows
        ]
    )


def machine_sentence(machine: dict[str, Any]) -> str:
    """Where the numbers come from."""
    commit = (machine["commit"] or "no commit")[:12] + (", changed" if machine["dirty"] else "")
    return (
        f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores, {machine['instructions']}; "
        f"PyTorch {machine['versions']['torch']}; {commit}"
    )


def markdown(results: dict[str, Any]) -> str:
    """Everything that ``make bench`` found, as one page."""
    table = Table(rows_table(results["rows"]), "").markdown().strip()
    return f"# Benchmarks\n\n{machine_sentence(results['machine'])}.\n\n{NOTE}\n\n{table}\n"
