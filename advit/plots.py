"""Figures: arrays in, Figure out. Nothing here computes a result."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from scipy.ndimage import distance_transform_edt

from advit.cache import ImageCache
from advit.evaluation import Evaluation
from advit.files import atomic
from advit.samples import Category

MAP_COLOURS = "magma"
TRUTH, DECISION = "#00e5ff", "#ffffff"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"
CHANCE = {"image_auroc": 0.5, "pixel_auroc": 0.5, "aupro_0.3": 0.15}  # of a constant map: the diagonal's
CHANCE_LINE = {"color": "0.4", "linewidth": 0.9, "linestyle": "--"}
STYLE = {
    "font.size": 8,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 8,
    "axes.titlepad": 3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # names of folders and files are no formulas
    "svg.hashsalt": "advit",
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.05,
}


def style_of(i: int) -> tuple[str, str]:
    """Colour and marker of the i-th thing in a figure; they begin anew after the last."""
    return COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]


@contextmanager
def house_style() -> Iterator[None]:
    """The look of every figure, for the length of a ``with`` block."""
    with matplotlib.rc_context(STYLE):
        yield


def settle(figure: Figure) -> Figure:
    """Lay the figure out once and for all, on a grid of a millionth of its size.

    The solver of Matplotlib's layout adds in an order that follows addresses in memory: without this, two equal figures
    now and then differ by one grey level along a line. Test: tests/test_determinism.py
    """
    with house_style():
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for part in figure.subfigs:
        part._redo_transform_rel_fig(Bbox(np.round(part.bbox_relative.get_points(), 6)))
    for ax in figure.axes:
        ax.set_position(np.round(ax.get_position(original=True).bounds, 6))
    return figure


def save_figure(figure: Figure, path: Path, alt: str = "") -> None:
    """Write a figure as PNG and as SVG, with its words but without a date, so that equal figures are equal files."""
    settle(figure)
    whole = matplotlib.rc_context({"savefig.bbox": None})  # of the size that it was laid out for
    with house_style(), whole, atomic(path.with_suffix(".png")) as temporary:
        figure.savefig(temporary, dpi=200, metadata={"Software": None, "Description": alt})
    with house_style(), atomic(path.with_suffix(".svg")) as temporary:
        figure.savefig(temporary, metadata={"Date": None, "Description": alt})


def outline(ax: Axes, mask: np.ndarray, extent: tuple[float, float, float, float] | None = None) -> None:
    """Draw the outline of a mask over an image of the same ``extent`` (as of ``imshow``), dark below to show on white.

    It runs one percent of the image outside the mask: a scratch would not be seen below its own outline.
    """
    away = distance_transform_edt(~mask.astype(bool)) - 0.01 * max(mask.shape)
    if mask.any() and away.max() > 0 and min(mask.shape) > 1:
        height, width = mask.shape
        left, right, bottom, top = extent or (-0.5, width - 0.5, height - 0.5, -0.5)
        x = left + (np.arange(width) + 0.5) * (right - left) / width
        y = top + (np.arange(height) + 0.5) * (bottom - top) / height
        drawn = ax.contour(x, y, away, levels=[0], colors=TRUTH, linewidths=0.9)
        drawn.set(path_effects=[withStroke(linewidth=1.9, foreground="#202020")])


def contact_sheet(
    category: Category, cache: ImageCache, result: Evaluation, threshold: float, map_threshold: float, columns: int = 6
) -> Figure:
    """Worst and best cases: defects hardly seen, defect-free images that look defective, defects clearly seen.

    Upper row of each pair: the image with the outline of the true defect. Lower row: its anomaly map, with the
    outline of where it exceeds the map's threshold. One colour scale for the whole sheet: from the median of
    defect-free images to twice as far above it as the threshold. Between them: the image score, and what
    it decides.
    """
    labels = np.array([s.is_anomalous for s in category.test])
    order = np.argsort(result.scores, kind="stable")
    bad, good = order[labels[order]], order[~labels[order]]
    groups = [
        ("Defects with the lowest scores", bad[:columns]),
        ("Defect-free images with the highest scores", good[::-1][:columns]),
        ("Defects with the highest scores", bad[::-1][:columns]),
    ]
    groups = [(title, chosen) for title, chosen in groups if len(chosen)]
    low = float(np.median(result.maps[~labels] if (~labels).any() else result.maps))
    high = low + 2 * max(map_threshold - low, 1e-6)
    with house_style():
        figure = Figure(figsize=(1.15 * columns + 0.7, 2.75 * len(groups) + 0.6), layout="constrained")
        figure.suptitle(sheet_title(category.name, result.metrics, threshold), fontsize=9)
        for part, (title, chosen) in zip(figure.subfigures(len(groups), 1, squeeze=False)[:, 0], groups, strict=True):
            part.suptitle(title, fontsize=8, x=0.01, ha="left", fontweight="bold")
            axes = part.subplots(2, columns, squeeze=False)
            for ax in axes.flat:
                ax.set_axis_off()
            for (top, bottom), i in zip(axes.T, chosen, strict=False):
                sample, mask = category.test[i], cache.mask(int(i)).numpy()
                extent = (0, mask.shape[1], mask.shape[0], 0)
                top.imshow(cache[int(i)].permute(1, 2, 0).numpy(), extent=extent)
                outline(top, mask, extent)
                top.set_title(f"{sample.defect} {sample.path.stem}"[:24], fontsize=6)
                drawn = bottom.imshow(result.maps[i], cmap=MAP_COLOURS, vmin=low, vmax=high)
                if result.maps[i].max() > map_threshold > result.maps[i].min():
                    bottom.contour(result.maps[i], levels=[map_threshold], colors=DECISION, linewidths=0.6)
                decision = "anomalous" if result.scores[i] > threshold else "good"
                bottom.set_title(f"{result.scores[i]:.4g}: {decision}", fontsize=6)
            bar = part.colorbar(drawn, ax=axes[1, :].tolist(), fraction=0.015, pad=0.01, extend="both")
            bar.ax.axhline(map_threshold, color=DECISION, linewidth=1)
            bar.ax.tick_params(labelsize=6)
            bar.set_label("anomaly score", fontsize=6)
    return settle(figure)


def sheet_title(name: str, metrics: dict, threshold: float) -> str:
    """Category and its main metrics under full names, and what outlines and numbers mean."""
    shown = {"image_auroc": "image-level AUROC", "pixel_auroc": "pixel-level AUROC", "aupro_0.3": "AU-PRO (FPR ≤ 0.3)"}
    found = [f"{label} {metrics[key]:.3f}" for key, label in shown.items() if metrics.get(key) is not None]
    meaning = (
        "Cyan: outline of the true defect. White: where the map exceeds its threshold.\n"
        f"Above a map: the image score, on a scale of its own, anomalous above {threshold:.4g}."
    )
    return f"{', '.join([name, *found])}\n{meaning}"


def metrics_figure(table: pd.DataFrame, full_names: dict[str, str]) -> Figure:
    """Dot plot of the main metrics per category, with one standard deviation over seeds where there are several.

    All panels have one scale, from the last twentieth below the lowest value.
    """
    keys = ("image_auroc", "pixel_auroc", "aupro_0.3")
    lowest = np.nanmin(table[list(keys)].to_numpy(), initial=1.0)
    least = max(0.0, math.floor(20 * lowest - 0.5) / 20)
    with house_style():
        figure = Figure(figsize=(6.3, 0.32 * len(table) + 0.9), layout="constrained")
        axes = figure.subplots(1, len(keys), sharey=True)
        rows = np.arange(len(table))
        for ax, key, colour, marker in zip(axes, keys, ("#0072B2", "#D55E00", "#009E73"), "osD", strict=True):
            error = table[f"{key}_sd"].fillna(0) if f"{key}_sd" in table else None
            ax.errorbar(table[key], rows, xerr=error, fmt=marker, color=colour, markersize=4, linewidth=1)
            for y, value in zip(rows, table[key], strict=True):
                if np.isfinite(value):
                    ax.annotate(f"{value:.3f}", (value, y), (0, 5), textcoords="offset points", ha="center", fontsize=6)
            ax.set_xlim(least, 1 + 0.12 * (1 - least))
            ax.set_title(full_names[key])
            ax.grid(axis="x", color="0.9")
            ax.set_axisbelow(True)
        axes[0].set_yticks(rows, table["category"])
        axes[0].set_ylim(len(table) - 0.5, -0.6)
    return figure


def overview_figure(examples: Sequence[dict[str, np.ndarray]]) -> Figure:
    """One column per category: the defect of median score with its outline, and its anomaly map below.

    Args:
        examples: ``image (h, w, 3)``, ``mask (e, e)``, ``anomaly_map (e, e)``, ``low``, ``threshold``, ``title`` each.
    """
    with house_style():
        figure = Figure(figsize=(1.75 * len(examples) + 0.4, 3.6), layout="constrained")
        axes = figure.subplots(2, len(examples), squeeze=False)
        for (top, bottom), e in zip(axes.T, examples, strict=True):
            span = float(e["threshold"]) - float(e["low"])
            extent = (0, e["mask"].shape[1], e["mask"].shape[0], 0)
            top.imshow(e["image"], extent=extent)
            outline(top, e["mask"], extent)
            top.set_title(str(e["title"]).replace("_", " "))
            height = (e["anomaly_map"] - e["low"]) / span
            drawn = bottom.imshow(height, cmap=MAP_COLOURS, vmin=0, vmax=2)
            if height.max() > 1 > height.min():
                bottom.contour(height, levels=[1], colors=DECISION, linewidths=0.8)
            for ax in (top, bottom):
                ax.set_axis_off()
        bar = figure.colorbar(drawn, ax=axes[1, :].tolist(), fraction=0.02, pad=0.01, ticks=[0, 1, 2], extend="both")
        bar.ax.set_yticklabels(["median, good", "threshold", "twice that"], fontsize=7)
        bar.set_label("anomaly score")
    return figure
