"""Figures of the data set and of the floors: arrays and tables in, Figure out. Nothing here computes a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from advit.plots import CHANCE_LINE, COLOURS, house_style, outline, style_of

WIDTH = 6.3  # inches, a page


def spoken(name: str) -> str:
    """A folder's name as words."""
    return name.replace("_", " ")


def examples_figure(name: str, examples: Sequence[tuple[str, np.ndarray, np.ndarray]], columns: int = 4) -> Figure:
    """A defect-free image and one of each kind of defect, with the outline of its mask.

    Args:
        examples: title, image ``(h, w, 3)`` uint8, mask ``(h, w)`` bool each; an empty mask has no outline.

    Test: tests/test_plots_data.py
    """
    columns = min(columns, len(examples))
    rows = -(-len(examples) // columns)
    cell = WIDTH / max(columns, 4)
    tall = [min(image.shape[0] / image.shape[1], 1.5) for _, image, _ in examples]
    heights = [cell * max(tall[r * columns : (r + 1) * columns]) + 0.2 for r in range(rows)]
    with house_style():
        figure = Figure(figsize=(cell * columns, sum(heights) + 0.25), layout="constrained")
        figure.suptitle(spoken(name), fontsize=9)
        axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"height_ratios": heights})
        for ax in axes.flat:
            ax.set_axis_off()
            ax.set_anchor("N")
        for ax, (title, image, mask) in zip(axes.flat, examples, strict=False):
            ax.imshow(image)
            outline(ax, mask)
            ax.set_title(spoken(title))
    return figure


def sizes_figure(sizes: pd.DataFrame) -> Figure:
    """Share of the image that is defect: a dot per image, a bar at the median of each kind, a panel per category.

    Args:
        sizes: ``category``, ``kind``, ``share`` (a part of 1, NaN without mask), one row per image.

    Test: tests/test_plots_data.py
    """
    groups = list(sizes.groupby("category", sort=False))
    if not groups:
        return Figure(figsize=(WIDTH, 0.5))
    columns = 1 if len(groups) == 1 else 2
    rows = -(-len(groups) // columns)
    kinds = [table["kind"].nunique() for _, table in groups]
    heights = [max(2, *kinds[r * columns : (r + 1) * columns]) + 1.5 for r in range(rows)]
    known = 100 * sizes["share"].dropna()
    known = known[known > 0]
    low, high = (0.7 * known.min(), min(1.4 * known.max(), 100)) if len(known) else (0.01, 100)
    with house_style():
        figure = Figure(figsize=(WIDTH, 0.19 * sum(heights) + 0.35), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"height_ratios": heights})
        for ax in axes.flat[len(groups) :]:
            ax.set_axis_off()
        for ax, (category, table), height in zip(axes.flat, groups, np.repeat(heights, columns), strict=False):
            names = sorted(table["kind"].unique())
            for y, kind in enumerate(names):
                share = 100 * table.loc[table["kind"] == kind, "share"].dropna().to_numpy()
                # Multiples of the golden ratio keep neighbouring dots apart, without any chance in them.
                level = y + 0.5 * ((np.arange(len(share)) * 0.618 + 0.5) % 1 - 0.5)
                ax.plot(np.sort(share), level, "o", color=COLOURS[0], markersize=3, alpha=0.5, markeredgewidth=0)
                if len(share):
                    ax.plot([np.median(share)] * 2, [y - 0.34, y + 0.34], color=COLOURS[1], linewidth=1.6)
                else:
                    ax.annotate("no mask", (0.5, y), xycoords=("axes fraction", "data"), va="center", color="0.4")
            ax.set_yticks(range(len(names)), [spoken(n) for n in names])
            ax.set_ylim(height - 1.5 - 0.4, -0.6)  # a kind takes the same room in every panel
            ax.set_xscale("log")
            ax.set_xlim(low, high)
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.set_title(spoken(category))
            ax.grid(axis="x", color="0.9")
            ax.set_axisbelow(True)
        for ax in axes.flat[max(0, len(groups) - columns) : len(groups)]:
            ax.set_xlabel("share of the image, % (bar: median)")
    return figure


def position_figure(panels: Mapping[str, tuple[np.ndarray, np.ndarray, float]], columns: int = 4) -> Figure:
    """Mean and standard deviation of the grey training images of each category, and what position explains.

    Args:
        panels: category -> mean ``(h, h)`` and sd ``(h, h)`` in grey levels 0...255, share of variance in [0, 1].

    Test: tests/test_plots_data.py
    """
    names = list(panels)
    columns = min(columns, len(names))
    bands = -(-len(names) // columns)
    cell = (WIDTH - 0.5) / max(columns, 3)
    brightest = max(float(np.quantile(sd, 0.995)) for _, sd, _ in panels.values())
    with house_style():
        figure = Figure(figsize=(cell * columns + 0.5, bands * (2 * cell + 0.35)), layout="constrained")
        axes = figure.subplots(2 * bands, columns, squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        for k, name in enumerate(names):
            mean, sd, share = panels[name]
            band, column = divmod(k, columns)
            top, bottom = axes[2 * band, column], axes[2 * band + 1, column]
            top.imshow(mean, cmap="gray", vmin=0, vmax=255)
            top.set_title(f"{spoken(name)}\nposition explains {100 * share:.0f} %")
            drawn = bottom.imshow(sd, cmap="viridis", vmin=0, vmax=brightest)
            if column == 0:
                for ax, text in ((top, "mean"), (bottom, "standard deviation")):
                    ax.text(-0.03, 0.5, text, transform=ax.transAxes, rotation=90, ha="right", va="center")
        bar = figure.colorbar(drawn, ax=axes[1::2, :].ravel().tolist(), fraction=0.03, pad=0.01, extend="max")
        bar.set_label("grey levels")
    return figure


def floors_figure(
    table: pd.DataFrame, full_names: Mapping[str, str], keys: Sequence[str], chance: Mapping[str, float]
) -> Figure:
    """Dot plot of the floors: a panel per metric, a row per category, colour and marker by method.

    Colours and markers are those that the floors have beside the two networks in the figure of all methods.

    Args:
        table: ``variant``, ``category`` and the metrics, NaN where undefined; one row per method and category.
        full_names: metric -> its name in full.
        keys: the metrics to show.
        chance: metric -> what scores without any information reach, a dashed line.

    Test: tests/test_plots_data.py
    """
    methods, categories = list(dict.fromkeys(table["variant"])), list(dict.fromkeys(table["category"]))
    styles = [style_of(2 + m) for m in range(len(methods))]
    rows, spread = np.arange(len(categories)), np.linspace(-0.3, 0.3, len(methods)) * (len(methods) > 1)
    with house_style():
        figure = Figure(figsize=(WIDTH, 0.5 * len(categories) + 0.95), layout="constrained")
        axes = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
        for ax, key in zip(axes, keys, strict=True):
            ax.hlines(rows[1:] - 0.5, 0, 1, transform=ax.get_yaxis_transform(), color="0.85", linewidth=0.6)
            ax.axvline(chance[key], **CHANCE_LINE)
            for m, method in enumerate(methods):
                values = table[table["variant"] == method].set_index("category")[key].reindex(categories)
                ax.plot(values, rows + spread[m], styles[m][1], color=styles[m][0], markersize=4)
            ax.set_xlim(np.fmin(chance[key], table[key].min()) - 0.05, 1.02)
            ax.set_title(full_names[key])
            ax.grid(axis="x", color="0.9")
            ax.set_axisbelow(True)
        axes[0].set_yticks(rows, [spoken(c) for c in categories])
        axes[0].set_ylim(len(categories) - 0.5, -0.5)
        shown = [Line2D([], [], marker=marker, color=colour, ls="", ms=4) for colour, marker in styles]
        shown.append(Line2D([], [], **CHANCE_LINE))
        figure.legend(shown, [*methods, "chance"], loc="outside lower center", ncols=len(shown), frameon=False)
    return figure
