"""The figure of the growth curves: arrays in, Figure out."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from advit.plots import house_style
from advit.speed import power
from benchmarks.attention import HEADS

COLOURS, MARKERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), "osD^"
PANELS = (
    ("patches", "patches N of one image", f"attention layer and its gradient,\nbatch of 1, {HEADS} heads of 64"),
    ("images", "images in a batch", "scoring"),
    ("categories", "categories of 8 images", "one epoch of reading"),
)


def growth_figure(curves: dict[str, dict[str, Any]]) -> Figure:
    """Milliseconds against patches, images and categories, both axes logarithmic; the last power of each in its label.

    Args:
        curves: panel -> name of a curve -> ``(n, 2)`` of size and milliseconds.
    """
    with house_style():
        figure = Figure(figsize=(6.3, 3.0), layout="constrained")
        for ax, (key, label, title) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
            for i, (name, points) in enumerate(curves[key].items()):
                text = f"{name}: n^{power(points):.1f}"
                ax.plot(
                    *np.transpose(points), color=COLOURS[i], marker=MARKERS[i], markersize=3, linewidth=1, label=text
                )
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            sizes = sorted({x for points in curves[key].values() for x, _ in points})
            ax.set_xticks(sizes, [f"{x:.0f}" for x in sizes])
            times = [y for points in curves[key].values() for _, y in points]
            steps = (1, 2, 5) if max(times) < 100 * min(times) else (1,)  # over more decades they would overlap
            ax.yaxis.set_major_locator(LogLocator(subs=steps))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter("")
            ax.set_xlabel(label)
            ax.set_title(title)
            ax.grid(color="0.9")
            ax.set_axisbelow(True)
            ax.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(-0.15, -0.22))
            ax.set_ylabel("milliseconds" if ax.get_subplotspec().is_first_col() else "")
    return figure
