"""Figures of localisation: from mixture parameters to an anomaly map, and a threshold on the PRO curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from advit.explain_localization import DensitySteps, ProCurve
from advit.plots import CHANCE, CHANCE_LINE, COLOURS, MAP_COLOURS, MARKERS, house_style, outline
from advit.plots_associations import UNIT, no_axes

NLL_COLOURS, COUNT_COLOURS = "viridis", "cividis"
FOUND, MISSED, FALSE = (0.0, 0.30, 0.25), (0.0, 0.45, 0.70), (1.0, 0.70, 0.28)  # dark green, blue, light orange
LIMIT = 0.3  # of the false positive rate, as in AU-PRO


def steps_figure(steps: DensitySteps, threshold: float) -> Figure:
    """Eight panels: the image, what its mixtures expect, and every step from the NLL to a decision per pixel."""
    k = steps.weight.shape[-1]
    with house_style():
        figure = Figure(figsize=(6.3, 4.0), layout="compressed")
        axes = figure.subplots(2, 4).ravel()
        for ax in axes:
            no_axes(ax)
        axes[0].imshow(steps.image, extent=UNIT)
        axes[0].set_title("image and defect")
        if steps.expected is not None:
            axes[1].imshow(steps.expected, extent=UNIT)
            axes[1].set_title("the mixtures' means")
        else:
            draw_map(figure, axes[1], steps.miss, "squared distance from\nthe mean, per dimension", NLL_COLOURS)
        if k > 1:
            title = f"effective Gaussians,\nof {k}"
            draw_map(figure, axes[2], steps.effective_components, title, COUNT_COLOURS, (1, k))
        else:
            spread = steps.log_variance.mean(axis=(-2, -1))
            draw_map(figure, axes[2], spread, "log-variance of the\nGaussian, mean", COUNT_COLOURS)
        draw_map(figure, axes[3], steps.nll, f"{steps.score} per\ndimension, nats", NLL_COLOURS)
        last = "smoothed, and\nhalos faded" if steps.fades else "smoothed"
        in_sd = {"standardised\n(in sd of training)": steps.standardised, "upsampled": steps.upsampled}
        span = min(float(m.min()) for m in in_sd.values()), max(float(m.max()) for m in in_sd.values())
        for ax, (title, values) in zip(axes[4:6], in_sd.items(), strict=True):
            draw_map(figure, ax, values, title, MAP_COLOURS, span)
        values = np.append(steps.smoothed, threshold)  # so that its mark is on the bar
        draw_map(figure, axes[6], steps.smoothed, last, MAP_COLOURS, (values.min(), values.max()), threshold)
        axes[7].imshow(decisions(steps.smoothed >= threshold, steps.mask), extent=UNIT)
        axes[7].set_title(f"that map ≥ threshold\n{threshold:.2f}")
        for ax in axes[:7]:
            outline(ax, steps.mask, UNIT)
        legend(axes[7])
    return figure


def localization_panel(
    image: np.ndarray, mask: np.ndarray, anomaly_map: np.ndarray, span: tuple[float, float], threshold: float,
    curve: ProCurve | None,
) -> Figure:  # fmt: skip
    """What the explorer redraws: the image with the mask's outline, the map over it, decisions, and the PRO curve.

    Args:
        image: ``(h, w, 3)`` uint8. mask: ``(E, E)`` bool. anomaly_map: ``(E, E)``.
        span: map values of the first and the last colour.
        curve: of all test images; None where there is no mask to compare with.
    """
    with house_style():
        figure = Figure(figsize=(9.2, 2.6))
        axes = [figure.add_axes((left, 0.15, 0.22, 0.757)) for left in (0.005, 0.235, 0.465)]
        titles = ("image and defect", "anomaly map", f"score ≥ threshold {threshold:.2f}")
        for ax, title in zip(axes, titles, strict=True):
            no_axes(ax)
            ax.set_title(title)
        axes[0].imshow(image, extent=UNIT)
        axes[1].imshow(overlaid(image, anomaly_map, span), extent=UNIT)
        axes[2].imshow(decisions(anomaly_map >= threshold, mask), extent=UNIT)
        outline(axes[0], mask, UNIT)
        outline(axes[1], mask, UNIT)
        draw_bar(figure.add_axes((0.27, 0.1, 0.15, 0.03)), span, threshold)
        legend(axes[2])
        plot = figure.add_axes((0.755, 0.22, 0.225, 0.66))
        if curve is None:
            no_axes(plot)
            plot.text(0.5, 0.5, "no masks: no PRO curve", ha="center")
        else:
            draw_curve(plot, curve, threshold)
    return figure


def kinds_figure(table: pd.DataFrame, variants: Sequence[str], metric: str, label: str) -> Figure:
    """Dot plot of one metric: a row per category, a colour and marker per variant, means over seeds, runs as ticks.

    Args:
        table: columns ``variant``, ``category`` and the metric, one row per run.
        variants: in the order of the legend.
    """
    categories = sorted(set(table["category"]))
    with house_style():
        figure = Figure(figsize=(6.3, 0.5 * len(categories) + 1.0), layout="constrained")
        ax = figure.subplots()
        offsets = np.linspace(-0.25, 0.25, len(variants)) if len(variants) > 1 else [0.0]
        for variant, shift, colour, marker in zip(variants, offsets, COLOURS, MARKERS, strict=False):
            rows = table[table["variant"] == variant]
            ax.scatter(rows[metric], rows["category"].map(categories.index).to_numpy() + shift, marker="|",
                       color=colour, s=40, linewidths=0.8)  # fmt: skip
            mean = rows.groupby("category")[metric].mean()
            ax.plot(mean.to_numpy(), [categories.index(c) + shift for c in mean.index], marker, color=colour,
                    markersize=5, label=variant)  # fmt: skip
        for y in range(1, len(categories)):
            ax.axhline(y - 0.5, color="0.85", linewidth=0.6)
        if metric in CHANCE:
            ax.axvline(CHANCE[metric], **CHANCE_LINE, label="chance")
        if table.groupby(["variant", "category"]).size().max() > 1:
            ax.plot([], [], "|", color="0.3", markersize=7, label="single run")
        ax.set(xlim=(0, 1.02), ylim=(len(categories) - 0.5, -0.5), xlabel=label)
        ax.set_yticks(range(len(categories)), categories)
        ax.grid(axis="x", color="0.9", linewidth=0.6)
        ax.set_axisbelow(True)
        figure.legend(loc="outside upper center", ncols=min(4, len(variants) + 2), frameon=False, columnspacing=1.2)
    return figure


def gaussians_figure(table: pd.DataFrame, metrics: Mapping[str, str]) -> Figure:
    """One panel per metric against the number of Gaussians: a pale line per run (category and seed), dark the mean.

    All panels have one scale, down to the next tenth below the lowest value.

    Args:
        table: columns ``components``, ``category``, ``seed`` and the metrics.
        metrics: column to its full name.
    """
    counts = sorted(table["components"].unique())
    with house_style():
        figure = Figure(figsize=(6.3, 2.3), layout="constrained")
        axes = figure.subplots(1, len(metrics), squeeze=False)[0]
        least = min(table[metric].min() for metric in metrics)
        styles = dict(zip(sorted(table["category"].unique()), zip(COLOURS, MARKERS, strict=True), strict=False))
        for ax, (metric, name) in zip(axes, metrics.items(), strict=True):
            for (category, _), run in table.sort_values("components").groupby(["category", "seed"]):
                colour, marker = styles.get(category, ("0.5", "o"))
                ax.plot(range(len(run)), run[metric], "-", marker=marker, color=colour, alpha=0.45, linewidth=0.8,
                        markersize=3, label=category)  # fmt: skip
            mean = table.groupby("components")[metric].mean()
            ax.plot(range(len(counts)), mean[counts], "-", color="black", linewidth=1.8, label="mean")
            ax.set_xticks(range(len(counts)), [str(k) for k in counts])
            ax.set_title(name)
            ax.set(xlabel="Gaussians K", ylim=(math.floor(10 * least) / 10, 1.01))
            ax.grid(axis="y", color="0.9", linewidth=0.6)
        found = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
        figure.legend(found.values(), found.keys(), loc="outside upper center", ncols=6, frameon=False)
    return figure


def draw_map(
    figure: Figure, ax: Axes, values: np.ndarray, title: str, colours: str,
    span: tuple[float | None, float | None] = (None, None), threshold: float | None = None,
) -> None:  # fmt: skip
    """One map in the unit square with a small colour bar, over ``span`` or, without one, from least to largest.

    ``threshold``: marked on the bar.
    """
    drawn = ax.imshow(values, cmap=colours, vmin=span[0], vmax=span[1], extent=UNIT)
    ax.set_title(title)
    bar = figure.colorbar(drawn, ax=ax, fraction=0.05, pad=0.02, orientation="horizontal")
    bar.ax.tick_params(labelsize=6, length=2, pad=1)
    bar.ax.locator_params(nbins=4)
    if threshold is not None:
        bar.ax.axvline(threshold, color="white", linewidth=1)


def draw_curve(ax: Axes, curve: ProCurve, threshold: float) -> None:
    """The PRO curve to FPR 0.3, or as far as the point lies, with the point of the threshold."""
    fpr, pro = curve.at(threshold)
    right = max(LIMIT, min(1.0, 1.1 * fpr))
    x = np.linspace(0, right, 301)
    y = np.interp(x, curve.fpr, curve.pro)
    ax.plot(x, y, color=COLOURS[0], linewidth=1.3)
    ax.fill_between(x[x <= LIMIT], y[x <= LIMIT], color=COLOURS[0], alpha=0.15, linewidth=0)
    ax.plot([fpr, fpr, 0], [0, pro, pro], color=COLOURS[1], linewidth=0.8, linestyle="--")
    ax.plot(fpr, pro, "o", color=COLOURS[1], markersize=6, clip_on=False, zorder=5)
    ax.set(xlim=(0, right), ylim=(0, 1.04), xlabel="false positive rate", ylabel="per-region overlap")
    ax.locator_params(nbins=4)
    ax.set_title(f"FPR {fpr:.3f}, overlap {pro:.3f}", pad=8)


def decisions(found: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """White, and in colour: defect pixels found, defect pixels missed, false alarms ``(E, E, 3)``."""
    picture = np.ones((*mask.shape, 3))
    for chosen, colour in ((found & mask, FOUND), (~found & mask, MISSED), (found & ~mask, FALSE)):
        picture[chosen] = colour
    return picture


def legend(ax: Axes) -> None:
    """Words for the colours of :func:`decisions`, below the frame."""
    ax.add_patch(Rectangle((0, 0), 1, 1, fill=False, edgecolor="0.6", linewidth=0.8))
    for x, side, word, colour in (
        (0, "left", "found", FOUND), (0.4, "center", "missed", MISSED), (1, "right", "false alarm", FALSE)
    ):  # fmt: skip
        ax.text(x, 1.02, word, color=colour, fontsize=6.5, fontweight="bold", ha=side, va="top").set_in_layout(False)


def overlaid(image: np.ndarray, anomaly_map: np.ndarray, span: Sequence[float]) -> np.ndarray:
    """Map colours over the grey image, more opaque the higher, ``(E, E, 3)`` in [0, 1]."""
    e, h = len(anomaly_map), len(image)
    nearest = np.minimum(((np.arange(e) + 0.5) * h / e).astype(int), h - 1)
    grey = image.mean(axis=-1)[np.ix_(nearest, nearest)][..., None] / 255
    height = np.clip((anomaly_map - span[0]) / max(span[1] - span[0], 1e-9), 0, 1)
    return blended(grey, height)


def blended(grey: np.ndarray | float, height: np.ndarray) -> np.ndarray:
    """Map colours of ``height`` in [0, 1] over grey, more opaque the higher."""
    alpha = 0.8 * np.clip(2 * height, 0, 1)[..., None]
    return grey * (1 - alpha) + matplotlib.colormaps[MAP_COLOURS](height)[..., :3] * alpha


def draw_bar(ax: Axes, span: Sequence[float], threshold: float) -> None:
    """The colours of :func:`overlaid` on middle grey, with the threshold where it lies among them."""
    span = span[0], max(span[1], span[0] + 1e-9)
    ax.imshow(blended(0.5, np.linspace(0, 1, 128))[None], extent=(*span, 0, 1), aspect="auto")
    if span[0] < threshold < span[1]:
        ax.axvline(threshold, color="white", linewidth=1.2)
    ax.set(yticks=[])
    ax.locator_params(axis="x", nbins=4)
    ax.tick_params(labelsize=6, length=2, pad=1)
