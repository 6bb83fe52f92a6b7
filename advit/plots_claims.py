"""Figures of training, ablations and claims: arrays in, Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from advit.plots import CHANCE, CHANCE_LINE, COLOURS, house_style, style_of
from advit.plots_data import spoken
from advit.stats import AGAINST, MARGIN, NEGLIGIBLE, SUPPORTED, UNDECIDED, UNTESTED

LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
WIDTH = 6.3  # inches, of a printed page
VERDICTS = {  # verdict -> word, marker, colour (Okabe-Ito), face
    SUPPORTED: ("supported", "o", "#0072B2", "#0072B2"),
    AGAINST: ("the opposite", "X", "#D55E00", "#D55E00"),
    UNDECIDED: ("undecided", "D", "#CC79A7", "white"),
    NEGLIGIBLE: (f"no difference (below {MARGIN:g})", "s", "#009E73", "#009E73"),
    UNTESTED: ("not tested", "v", "0.35", "white"),
}


def curves_figure(panels: Mapping[str, Mapping[str, pd.DataFrame]], xlabel: str) -> Figure:
    """Curves over training: one panel per quantity, one line per variant.

    Args:
        panels: label of the vertical axis -> variant -> columns ``step``, ``mean``, ``low``, ``high``.
    """
    with house_style():
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for ax, (label, curves) in zip(axes, panels.items(), strict=True):
            for i, (variant, curve) in enumerate(curves.items()):
                colour = COLOURS[i % len(COLOURS)]
                ax.plot(curve["step"], curve["mean"], LINES[i % len(LINES)], color=colour, label=variant, linewidth=1.3)
                ax.fill_between(curve["step"], curve["low"], curve["high"], color=colour, alpha=0.15, linewidth=0)
            ax.set_title(label)
            ax.grid(color="0.92")
            ax.set_axisbelow(True)
        figure.supxlabel(xlabel, fontsize=8)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)), frameon=False)
    return figure


def gradients_figure(table: pd.DataFrame) -> Figure:
    """Bars of :func:`advit.phases.phase_gradients`, one group per part of the network; zero is written out."""
    parts, phases = list(table.columns[1:]), list(table["phase"])
    with house_style():
        figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
        ax = figure.subplots()
        height = 0.8 / len(phases)
        largest = max(float(table[parts].to_numpy().max()), 1e-12)
        for i, phase in enumerate(phases):
            values = table[parts].to_numpy()[i]
            rows = np.arange(len(parts)) + (i - (len(phases) - 1) / 2) * height
            ax.barh(rows, values, height * 0.9, color=COLOURS[i], label=phase)
            for y, value in zip(rows, values, strict=True):
                text = "0" if value == 0 else f"{value:.3g}"
                ax.annotate(text, (value, y), (3, 0), textcoords="offset points", va="center", fontsize=6)
        ax.set_yticks(range(len(parts)), parts)
        ax.invert_yaxis()
        ax.set_xlim(0, 1.15 * largest)
        ax.set_xlabel("norm of the gradient of the last layer's discrepancy")
        ax.legend(title="phase (both: as trained)", frameon=False, fontsize=7)
    return figure


def pairs_figure(panels: Mapping[str, pd.DataFrame], left: str, right: str, xlabel: str) -> Figure:
    """Pairs of runs that differ in one option alone: ``right`` minus ``left``, a mark per pair, a row per category.

    Black: the mean over categories. Grey: as good as no difference (:data:`advit.stats.MARGIN`).

    Args:
        panels: name of the metric -> columns ``category``, ``seed`` and the two variants.
    """
    with house_style():
        count = max((table["category"].nunique() for table in panels.values()), default=1)
        figure = Figure(figsize=(WIDTH, 0.3 * count + 1.1), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False, sharex=True)[0]
        for ax, (label, table) in zip(axes, panels.items(), strict=True):
            change, names = table[right] - table[left], sorted(table["category"].unique())
            for i, name in enumerate(names):
                values, (colour, marker) = change[table["category"] == name], style_of(i)
                ax.plot(values, [i] * len(values), marker, color=colour, markersize=4, alpha=0.8, markeredgewidth=0)
            mean = change.groupby(table["category"]).mean().mean()
            ax.plot(mean, len(names), "d", color="black", markersize=6)
            ax.axvline(0, color="black", linewidth=0.8)
            ax.axvspan(-MARGIN, MARGIN, color="0.9", zorder=0)
            ax.set_yticks(range(len(names) + 1), [*map(spoken, names), f"mean: {mean:+.4f}".replace("-", "−")])
            ax.set_ylim(len(names) + 0.5, -0.5)
            ax.set_title(label)
            ax.grid(axis="x", color="0.92")
            ax.set_axisbelow(True)
        largest = max((float((t[right] - t[left]).abs().max()) for t in panels.values()), default=0.0)
        axes[0].set_xlim(*(side * 1.2 * max(MARGIN, largest) for side in (-1, 1)))
        figure.supxlabel(f"{xlabel}; grey: below {MARGIN:g}", fontsize=8)
    return figure


def sweep_figure(panels: Mapping[str, pd.DataFrame], xlabel: str) -> Figure:
    """A metric over the values of one option: every run as a point, a line through the means of each category.

    Args:
        panels: name of the metric -> columns ``x``, ``category``, ``value``, one row per run.
    """
    with house_style():
        figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for ax, (label, table) in zip(axes, panels.items(), strict=True):
            levels = sorted(table["x"].unique())
            place = {x: i for i, x in enumerate(levels)}
            for i, (category, rows) in enumerate(table.groupby("category", sort=True)):
                shift = (i - (table["category"].nunique() - 1) / 2) * 0.03
                colour, marker = style_of(i)
                at = rows["x"].map(place) + shift
                ax.plot(at, rows["value"], marker, color=colour, markersize=3, alpha=0.45)
                means = rows.groupby("x")["value"].mean()
                name = spoken(str(category))
                at = [place[x] + shift for x in means.index]
                ax.plot(at, means.to_numpy(), "-", color=colour, linewidth=1.3)
                ax.plot([], [], "-", marker=marker, color=colour, linewidth=1.3, markersize=4, label=name)
            ax.set_xticks(range(len(levels)), [f"{x:g}" for x in levels])
            ax.set_title(label)
            ax.grid(axis="y", color="0.92")
            ax.set_axisbelow(True)
        figure.supxlabel(xlabel, fontsize=8)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(5, len(labels)), frameon=False)
    return figure


def comparison_figure(table: pd.DataFrame, metrics: Mapping[str, str]) -> Figure:
    """Methods compared on every category: one panel per metric, one row per category, one mark per method.

    Marks stand one below the other, in the order of the legend, so that none hides another.

    Args:
        table: columns ``variant``, ``category`` and the metrics; means over seeds are drawn.
        metrics: key of the metric -> its full name.
    """
    methods = list(dict.fromkeys(table["variant"]))
    categories = sorted(table["category"].unique())
    with house_style():
        figure = Figure(figsize=(WIDTH, 0.62 * len(categories) + 1.3), layout="constrained")
        axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for ax, (key, label) in zip(axes, metrics.items(), strict=True):
            means = table.groupby(["variant", "category"])[key].mean()
            for i, method in enumerate(methods):
                values = [means.get((method, c), np.nan) for c in categories]
                first, rows = i == 0, np.arange(len(categories)) + 0.8 * ((i + 0.5) / len(methods) - 0.5)
                colour, marker = style_of(i)
                ax.plot(
                    values, rows, marker, color=colour,
                    markersize=6.5 if first else 4.5, markeredgewidth=1.2, label=method, zorder=3 if first else 2,
                    markerfacecolor=colour if first else "white",
                )  # fmt: skip
            for y in range(1, len(categories)):
                ax.axhline(y - 0.5, color="0.85", linewidth=0.6, zorder=0)
            ax.set_title(label)
            if key in CHANCE:
                ax.axvline(CHANCE[key], **CHANCE_LINE, label="chance")
            ax.set_xlim(0, 1.05)  # a whole mark at 1
            ax.grid(axis="x", color="0.92")
            ax.set_axisbelow(True)
        axes[0].set_yticks(range(len(categories)), [spoken(c) for c in categories])
        axes[0].set_ylim(len(categories) - 0.5, -0.5)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    return figure


def claims_figure(names: Sequence[str], values: np.ndarray, verdicts: Sequence[str]) -> Figure:
    """Every claim's estimate with its 95 % interval and a mark for its verdict; right of the line: for the claim.

    Grey: as good as no difference (:data:`advit.stats.MARGIN`). A line between the claims of different numbers.

    Args:
        names: one line of text per claim. values: ``(n, 3)`` value, low, high, relative to no effect; NaN where not
            tested, and where there is no interval.
        verdicts: of :func:`advit.stats.verdict`.
    """
    with house_style():
        figure = Figure(figsize=(WIDTH, 0.27 * len(names) + 1.0), layout="constrained")
        ax = figure.subplots()
        for y, ((value, low, high), verdict) in enumerate(zip(values, verdicts, strict=True)):
            _, mark, colour, face = VERDICTS[verdict]
            if np.isfinite(low):
                ax.plot([low, high], [y, y], color=colour, linewidth=1.6)
            estimated = np.isfinite(value)
            ax.plot(value if estimated else 0, y, mark, color=colour, markersize=5, markerfacecolor=face)
            if not estimated:
                ax.annotate("no estimate", (0, y), (6, 0), textcoords="offset points", va="center", fontsize=6)
            if y and names[y].split()[0] != names[y - 1].split()[0]:
                ax.axhline(y - 0.5, color="0.8", linewidth=0.6, zorder=0)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.axvspan(-MARGIN, MARGIN, color="0.9", zorder=0)
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.grid(axis="x", color="0.92")
        ax.set_axisbelow(True)
        words = "difference of the metric, or of P (C1: P − 0.5); right of 0: for the claim"
        ax.set_xlabel(f"{words}; grey: below {MARGIN:g}", loc="right")
        handles = [
            Line2D([], [], linestyle="", marker=mark, color=colour, markersize=5, markerfacecolor=face, label=word)
            for verdict, (word, mark, colour, face) in VERDICTS.items()
            if verdict in set(verdicts)
        ]
        handles.append(Line2D([], [], color="0.35", linewidth=1.6, label="95 % interval"))
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure
