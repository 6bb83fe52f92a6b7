"""Figure of the public code's evaluation defects: where each metric was, and where the defect takes it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from advit.plots import house_style

MARKS = {
    "image-level AUROC": ("#0072B2", "o"),
    "image-level F1": ("#E69F00", "^"),
    "pixel-level AUROC": ("#D55E00", "s"),
    "AU-PRO (FPR ≤ 0.3)": ("#009E73", "D"),
}
STEP, GAP = 1.0, 0.7  # between the metrics of a defect, and more between two defects


def defect_figure(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Dumbbells, one panel per model: hollow where the metric is correct, filled with the defect switched on.

    Args:
        tables: name of the model -> table as of :func:`advit.public_evaluation.defect_table`. A defect that a model
            does not have leaves its rows empty.

    Test: tests/test_public_evaluation.py
    """
    every = pd.concat(tables.values(), ignore_index=True)
    keys = every.assign(last=every["number"] == "all", order=pd.to_numeric(every["number"], errors="coerce"))
    keys = keys.sort_values(["last", "order"], kind="stable")[["number", "defect", "metric"]].drop_duplicates()
    at, labels, lines, y = {}, [], [], 0.0
    for (number, defect), rows in keys.groupby(["number", "defect"], sort=False):
        place = y + STEP * np.arange(len(rows))
        at |= {(defect, metric): float(p) for metric, p in zip(rows["metric"], place, strict=True)}
        lines.append(y - (STEP + GAP) / 2)
        labels.append((float(place.mean()), label_of(number, defect, len(rows))))
        y = place[-1] + STEP + GAP
    with house_style():
        figure = Figure(figsize=(6.3, 0.165 * y + 0.85), layout="constrained")
        axes = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
        for ax, (name, table) in zip(axes, tables.items(), strict=True):
            dumbbells(ax, table, at)
            ax.set_title(name, fontweight="bold")
            ax.annotate("change", (1.02, 1.01), xycoords="axes fraction", fontsize=6)
            ax.set_xlim(-0.03, 1.03)
            ax.set_xticks(np.linspace(0, 1, 6))
            ax.grid(axis="x", color="0.9")
            ax.set_axisbelow(True)
            ax.tick_params(axis="y", length=0)
            ax.set_xlabel("value of the metric")
            for line in lines[1:]:
                ax.axhline(line, color="0.85", linewidth=0.6)
        axes[0].set_yticks([place for place, _ in labels], [text for _, text in labels], fontsize=7)
        axes[0].set_ylim(y - GAP - 0.4, -0.7)
        figure.legend(handles=handles(every), loc="outside lower center", ncols=3, frameon=False, fontsize=7)
    return figure


def dumbbells(ax: Axes, table: pd.DataFrame, at: Mapping[tuple[str, str], float]) -> None:
    """Draw one model's rows at their places."""
    drawn = set()
    for row in table.itertuples():
        y, (colour, marker) = at[row.defect, row.metric], MARKS[row.metric]
        drawn.add((row.defect, row.metric))
        ax.plot([row.correct, row.with_defect], [y, y], color=colour, linewidth=1.4, solid_capstyle="butt", zorder=2)
        ax.plot(row.correct, y, marker, color=colour, markerfacecolor="white", markersize=5.5, zorder=3)
        ax.plot(row.with_defect, y, marker, color=colour, markersize=3.4, zorder=4)
        ax.annotate(
            change_of(row.difference), (1.02, y), xycoords=("axes fraction", "data"), fontsize=6, va="center"
        )
    for defect in {d for d, _ in at} - {d for d, _ in drawn}:
        place = np.mean([p for (d, _), p in at.items() if d == defect])
        ax.text(0.5, place, "does not arise", color="0.5", ha="center", va="center", fontsize=7)


def change_of(difference: float) -> str:
    """A difference with its sign, three decimals; no sign where it rounds to nothing."""
    if pd.isna(difference):
        return "–"
    rounded = round(float(difference), 3)
    return f"{rounded:+.3f}".replace("-", "−") if rounded else "0.000"


def label_of(number: str, defect: str, rows: int) -> str:
    """Number and words of a defect on as many lines as its rows leave room for."""
    if number == "all":
        return textwrap.fill(defect, 28)
    return textwrap.fill(f"{number}  {defect}", 34 if rows > 1 else 40)


def handles(table: pd.DataFrame) -> list[Line2D]:
    """Legend: a colour per metric that occurs, and the two fillings."""
    used = [m for m in MARKS if m in set(table["metric"])]
    marks = [Line2D([], [], color=MARKS[m][0], marker=MARKS[m][1], label=m, markersize=4) for m in used]
    plain = dict(color="0.3", marker="o", linestyle="none")
    correct = Line2D([], [], **plain, markerfacecolor="white", markersize=5.5, label="correct")
    return [*marks, correct, Line2D([], [], **plain, markersize=3.4, label="with the defect")]
