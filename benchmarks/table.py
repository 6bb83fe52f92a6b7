"""The table of all measurements as Markdown."""

from __future__ import annotations

from typing import Any

from advit.speed import growth_sentences, machine_sentence, rows_table
from advit.tables import Table

NOTE = (
    "Times are medians of several runs, side by side in one process; the first run is not counted, and what takes more "
    "than three seconds runs twice at most. Memory is the growth of a fresh process's largest resident size over that "
    "with the inputs (extra), or that size itself (peak). Published: one layer's two losses with two divergences each, "
    "all N x N matrices stored, two backward passes; same values and gradients, up to the known factor 1 - eps. "
    "Times of the discrepancy and of the attention layer, on both sides, are with the memory allocation that PyTorch "
    "comes with, after a first batch of images was freed; with freed memory kept (advit/allocator.py), as in all other "
    "rows, the published one gains more than ours where its matrices are small. Literal: the public network's routing "
    "loop, grouped 11 x 11 SSIM and default layout, same losses."
)


def markdown(results: dict[str, Any]) -> str:
    """Everything that ``make bench`` found, as one page."""
    table = Table(rows_table(results["rows"]), "").markdown().strip()
    growth = growth_sentences(results["curves"])
    return f"# Benchmarks\n\n{machine_sentence(results['machine'])}.\n\n{NOTE}\n\n{table}\n\n{growth}\n"
