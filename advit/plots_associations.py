"""Figures of associations, learned scales and discrepancies. Views and arrays in, Figure out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import LogLocator, NullFormatter

from advit.explain import AssociationView
from advit.plots import house_style, outline

UNIT = (0, 1, 1, 0)  # extent of every picture
NORMAL, DEFECT = "#0072B2", "#D55E00"
SIGMA_COLOURS, DISCREPANCY_COLOURS = "cividis", "viridis"
EXTREME = 30  # times the uniform association, or a thirtieth of it: the ends of the scale
FRAMES = {NORMAL: (NORMAL, (0, (2, 1.2))), DEFECT: ("black", "-")}  # colour and line: told apart in grey prints too


def associations_figure(
    view: AssociationView, normal: int, defect: int, layer: int | None = None, head: int | None = None
) -> Figure:
    """One row each for a normal and an abnormal patch: where it lies, its series- and its prior-association.

    All associations share one scale, in multiples of the uniform association 1/N; None averages over layers or heads.
    """
    series, prior, ad = (view.pick(name, layer, head) for name in ("series", "prior", "discrepancy"))
    with house_style():
        figure = Figure(figsize=(6.3, 4.5), layout="compressed")
        axes = figure.subplots(2, 3)
        for row, i, name, colour in zip(axes, (normal, defect), ("normal", "abnormal"), (NORMAL, DEFECT), strict=True):
            draw_image(row[0], view)
            mark_patch(row[0], view, i, colour)
            place = f"{i // view.grid}, {i % view.grid}"
            row[0].set_title(f"{name} patch ({place})\nAD {ad[i]:.2f} nats", color=colour, pad=5)
            for ax, label, association in zip(row[1:], ("series", "prior"), (series, prior), strict=True):
                drawn = draw_association(ax, view, association[i])
                mark_patch(ax, view, i, colour)
                ax.set_title(f"{label}-association")
        association_bar(figure, drawn, axes[:, 1:].ravel().tolist())
        figure.suptitle(f"{chosen_text(layer, head)}. Frame: the patch; cyan: outline of the defect", fontsize=8)
    return figure


def heads_figure(view: AssociationView, patch: int, colour: str = DEFECT) -> Figure:
    """Series-association of one patch in every layer (rows) and head (columns); the circle is its prior's scale.

    The prior is a Gaussian around the patch, so a circle of radius sigma says all about it.
    """
    layers, heads = view.series.shape[:2]
    with house_style():
        figure = Figure(figsize=(6.3, 0.35 + 5.4 / max(heads, 4) * layers), layout="compressed")
        axes = figure.subplots(layers, heads, squeeze=False)
        for (layer, head), ax in np.ndenumerate(axes):
            drawn = draw_association(ax, view, view.series[layer, head, patch])
            mark_patch(ax, view, patch, colour)
            centre = np.array([patch % view.grid + 0.5, patch // view.grid + 0.5]) / view.grid
            sigma = float(view.sigma[layer, head, patch])
            ax.add_patch(Circle(centre, sigma / view.grid, fill=False, edgecolor=NORMAL, linestyle=(0, (3, 2))))
            ax.set(xlim=(0, 1), ylim=(1, 0))
            ad = view.discrepancy[layer, head, patch]
            ax.set_title(f"AD {ad:.2f}, σ {sigma:.2f}", fontsize=6 if heads > 4 else 7)
        for head, ax in enumerate(axes[0]):
            ax.annotate(f"head {head}", (0.5, 1.18), xycoords="axes fraction", ha="center", fontweight="bold")
        for layer, ax in enumerate(axes[:, 0]):
            ax.annotate(f"layer {layer}", (-0.04, 0.5), xycoords="axes fraction", ha="right", va="center",
                        rotation=90, fontweight="bold")  # fmt: skip
        association_bar(figure, drawn, axes.ravel().tolist(), shrink=min(1.0, 2 / layers))
        text = "Frame: the patch; dashed circle: radius σ of its prior; cyan: outline of the defect"
        figure.suptitle(text, fontsize=8)
    return figure


def layers_figure(view: AssociationView, name: str) -> Figure:
    """The image, and ``name`` ("sigma" or "discrepancy") of every patch, mean over heads, in every layer.

    Sigma's scale begins at 0; that of the discrepancy is logarithmic, since layers differ more than patches do.
    """
    label, colours = {
        "sigma": ("σ (patches)", SIGMA_COLOURS),
        "discrepancy": ("discrepancy (nats)", DISCREPANCY_COLOURS),
    }[name]
    maps = getattr(view, name).mean(axis=1).reshape(-1, view.grid, view.grid)
    low, high = max(float(maps.min()), 1e-6), max(float(maps.max()), 1e-5)
    norm = Normalize(0, high) if name == "sigma" else LogNorm(low, high)
    with house_style():
        columns = min(len(maps) + 1, 5)
        rows = -(-(len(maps) + 1) // columns)
        figure = Figure(figsize=(6.3, 6.3 / (columns + 0.4) * rows + 0.15), layout="compressed")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax in axes:
            ax.set_axis_off()
        draw_image(axes[0], view)
        axes[0].set_title("image and defect")
        for layer, (ax, values) in enumerate(zip(axes[1:], maps, strict=False)):
            drawn = ax.imshow(values, cmap=colours, norm=norm, extent=UNIT)
            outline(ax, view.mask, UNIT)
            ax.set_title(f"layer {layer}, mean {values.mean():.2f}")
        bar = figure.colorbar(drawn, ax=axes.tolist(), fraction=0.03, pad=0.01)
        if name != "sigma":
            bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            bar.ax.yaxis.set_minor_formatter(NullFormatter())
        bar.set_label(label)
    return figure


def distribution_figure(
    groups: Mapping[str, tuple[np.ndarray, np.ndarray]], effects: Mapping[str, str], xlabel: str
) -> Figure:
    """Cumulative distributions of defect against normal patches, one panel per entry, its effect size in the title.

    Args:
        groups: title to the values of defect patches ``(d,)`` and of normal patches ``(n,)``.
        effects: title to the effect size as text.
    """
    columns = min(len(groups), 4)
    rows = -(-len(groups) // columns)
    with house_style():
        figure = Figure(figsize=(6.3, 1.75 * rows + 0.35), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for ax in axes[len(groups) :]:
            ax.set_visible(False)
        for ax, (name, (defect, normal)) in zip(axes, groups.items(), strict=False):
            for values, colour, style, label in (
                (normal, NORMAL, "--", "normal patches"),
                (defect, DEFECT, "-", "defect patches"),
            ):
                ax.ecdf(values, color=colour, linestyle=style, linewidth=1.3, label=label)
            ax.set_title(f"{name}\n{effects[name]}")
            ax.grid(color="0.9", linewidth=0.6)
            ax.set_axisbelow(True)
        figure.supxlabel(xlabel, fontsize=8)
        axes[0].set_ylabel("share of patches below")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    return figure


def effects_figure(effects: Mapping[str, np.ndarray], label: str) -> Figure:
    """Effect sizes of every layer and head ``(L, M)`` as numbers on a diverging scale; 0.5, no effect, is white.

    Args:
        effects: title to effects. label: of the colour bar.
    """
    columns = min(len(effects), 4)
    rows = -(-len(effects) // columns)
    layers, heads = next(iter(effects.values())).shape
    with house_style():
        height = min(0.28, 1.3 / heads) * layers + 0.5
        figure = Figure(figsize=(6.3, max(1.5, height * rows + 0.3)), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax in axes[len(effects) :]:
            ax.set_visible(False)
        for ax, (name, values) in zip(axes, effects.items(), strict=False):
            drawn = ax.imshow(values, cmap="PuOr", vmin=0, vmax=1, aspect="auto")
            for (layer, head), value in np.ndenumerate(values):
                colour = "white" if abs(value - 0.5) > 0.33 else "black"
                ax.text(head, layer, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=6)
            ax.set(title=name, xticks=range(heads), yticks=range(layers))
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
        axes[0].set(xlabel="head", ylabel="layer")
        bar = figure.colorbar(drawn, ax=axes[: len(effects)].tolist(), fraction=0.04, pad=0.01)
        bar.set_label(label)
    return figure


def association_panel(view: AssociationView, patch: int, layer: int | None = None, head: int | None = None) -> Figure:
    """What the explorer redraws: the patch in its image, its two associations, and the discrepancy of all patches."""
    series, prior, ad = (view.pick(name, layer, head) for name in ("series", "prior", "discrepancy"))
    with house_style():
        figure = Figure(figsize=(9.2, 2.1))
        axes = [figure.add_axes((left, 0.02, 0.205, 0.87)) for left in (0.005, 0.225, 0.445, 0.715)]
        draw_image(axes[0], view)
        axes[0].set_title("image, defect and patch")
        for ax, label, association in zip(axes[1:3], ("series", "prior"), (series, prior), strict=True):
            drawn = draw_association(ax, view, association[patch])
            ax.set_title(f"{label}-association")
        no_axes(axes[3])
        maps = axes[3].imshow(ad.reshape(view.grid, -1), cmap=DISCREPANCY_COLOURS, extent=UNIT)
        outline(axes[3], view.mask, UNIT)
        axes[3].set_title(f"discrepancy: {ad[patch]:.2f} nats at the patch")
        for ax in axes:
            mark_patch(ax, view, patch, DEFECT if view.share[patch] > 0 else NORMAL)
        association_bar(figure, drawn, cax=figure.add_axes((0.655, 0.06, 0.008, 0.75)))
        figure.colorbar(maps, cax=figure.add_axes((0.922, 0.06, 0.008, 0.75))).set_label("nats")
    return figure


def draw_image(ax: Axes, view: AssociationView) -> None:
    """The image in the unit square, with the outline of its defect."""
    no_axes(ax)
    ax.imshow(view.image, extent=UNIT)
    outline(ax, view.mask, UNIT)


def draw_association(ax: Axes, view: AssociationView, association: np.ndarray) -> ScalarMappable:
    """One row of an association ``(N,)`` in multiples of 1/N, on a logarithmic scale that is white at 1."""
    times = association.reshape(view.grid, view.grid) * len(association)
    no_axes(ax)
    norm = LogNorm(1 / EXTREME, EXTREME, clip=True)
    drawn = ax.imshow(times, cmap="PuOr_r", norm=norm, extent=UNIT)
    outline(ax, view.mask, UNIT)
    return drawn


def association_bar(figure: Figure, drawn: ScalarMappable, axes: list[Axes] | None = None, **place) -> None:
    """Colour bar in multiples of the uniform association."""
    if axes is not None:
        place = {"fraction": 0.03, "pad": 0.01, **place}
    bar = figure.colorbar(drawn, ax=axes, extend="both", **place)
    bar.set_ticks([0.1, 1, 10], labels=["0.1", "1", "10"])
    bar.ax.minorticks_off()
    bar.set_label("times the uniform 1/N")


def no_axes(ax: Axes) -> None:
    """Neither frame nor ticks; without ticks to lay out, drawing is twice as fast."""
    ax.set_axis_off()
    ax.set(xticks=[], yticks=[])


def mark_patch(ax: Axes, view: AssociationView, patch: int, colour: str) -> None:
    """Frame around one patch, of :data:`FRAMES` with a white rim, above the outline of the defect."""
    rim, side = 0.008, 1 / view.grid
    corner, side = (patch % view.grid * side - rim, patch // view.grid * side - rim), side + 2 * rim
    for width, edge, line in ((3.0, "white", "-"), (1.7, *FRAMES[colour])):
        frame = Rectangle(
            corner, side, side, fill=False, edgecolor=edge, linewidth=width, linestyle=line, clip_on=False, zorder=5
        )
        ax.add_patch(frame).set_in_layout(False)
    ax.set(xlim=(0, 1), ylim=(1, 0))


def chosen_text(layer: int | None, head: int | None) -> str:
    """Layer and head as words."""
    where = "mean over layers" if layer is None else f"layer {layer}"
    return f"{where}, {'mean over heads' if head is None else f'head {head}'}"
