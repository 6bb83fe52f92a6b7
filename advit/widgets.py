"""Two explorers for notebooks: controls that a keyboard can work, and a picture that follows them.

Needs ipywidgets (``pip install 'advit[notebooks]'``); nothing else in advit imports this module.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from matplotlib.figure import Figure

from advit.explain import AssociationView, most_covered_patch
from advit.explain_localization import ProCurve, pro_points
from advit.plots_associations import association_panel, chosen_text
from advit.plots_localization import localization_panel
from advit.scoring import pixel_maps

try:
    import ipywidgets
except ImportError as error:
    raise ImportError("advit.widgets needs ipywidgets. Get it with: pip install 'advit[notebooks]'") from error

DPI = 100
START_FPR = 0.05  # where the threshold begins
STEPS = 200  # positions of the threshold slider
SMOOTHING = (0.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0)  # sd in pixels at 512


class Explorer(ipywidgets.VBox):
    """Controls above, the numbers in words, and the picture; a change of any control redraws.

    Args:
        controls: name to widget. Their values are the keyword arguments of ``draw``.
        draw: gives the figure and one line of text with the numbers in it.

    ``controls``, ``picture`` (an ``ipywidgets.Image``) and ``readout`` stay within reach. Test: tests/test_widgets.py
    """

    def __init__(self, controls: Mapping[str, ipywidgets.Widget], draw: Callable[..., tuple[Figure, str]]) -> None:
        self.controls, self._draw = dict(controls), draw
        self.picture = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%"))
        self.readout = ipywidgets.HTML()
        for control in self.controls.values():
            control.style.description_width = "7em"
            control.layout.width = "22em"
            control.observe(self._changed, names="value")
        rows = ipywidgets.Box(
            list(self.controls.values()), layout=ipywidgets.Layout(display="flex", flex_flow="row wrap")
        )
        super().__init__([rows, self.readout, self.picture])
        self.redraw()

    def redraw(self) -> None:
        """Draw the picture for the controls as they are."""
        figure, text = self._draw(**{name: control.value for name, control in self.controls.items()})
        self.readout.value, self.picture.value = html.escape(text), png(figure)

    def _changed(self, change: dict) -> None:
        self.redraw()


def png(figure: Figure) -> bytes:
    """The figure as PNG, little compressed: the time goes into drawing."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def association_explorer(views: Sequence[AssociationView], names: Sequence[str]) -> Explorer:
    """Walk through images, layers, heads and patches: both associations, and the discrepancy with its value.

    Controls: ``image``, ``layer`` and ``head`` (None averages), ``row`` and ``column`` of the patch, which starts as
    the one most covered by the first image's defect.

    Args:
        views: of one network, so that layers, heads and grid agree.
        names: one per view, all different.

    Raises:
        ValueError: no views, other names than views, or views of different networks.

    Test: tests/test_widgets.py
    """
    if not views or len(views) != len(set(names)):
        raise ValueError(f"{len(views)} views need as many different names, not {list(names)}.")
    if len({(v.discrepancy.shape, v.grid) for v in views}) > 1:
        raise ValueError("the views come from different networks: layers, heads or patches differ.")
    (layers, heads, _), grid = views[0].discrepancy.shape, views[0].grid
    start = most_covered_patch(views[0].share) if views[0].mask.any() else 0

    def draw(image: int, layer: int | None, head: int | None, row: int, column: int) -> tuple[Figure, str]:
        view, patch = views[image], row * grid + column
        text = (
            f"{names[image]}, {chosen_text(layer, head)}, patch in row {row}, column {column} "
            f"({view.share[patch]:.0%} defect): discrepancy {view.pick('discrepancy', layer, head)[patch]:.3f} nats, "
            f"sigma {view.pick('sigma', layer, head)[patch]:.3f} patches"
        )
        return association_panel(view, patch, layer, head), text

    numbers = {"min": 0, "max": grid - 1}
    return Explorer(
        {
            "image": ipywidgets.Dropdown(options=[(n, i) for i, n in enumerate(names)], description="Image"),
            "layer": ipywidgets.Dropdown(options=averaged("layer", layers), description="Layer"),
            "head": ipywidgets.Dropdown(options=averaged("head", heads), description="Head"),
            "row": ipywidgets.IntSlider(value=start // grid, description="Patch row", **numbers),
            "column": ipywidgets.IntSlider(value=start % grid, description="Patch column", **numbers),
        },
        draw,
    )


def averaged(word: str, count: int) -> list[tuple[str, int | None]]:
    """Options of a dropdown: the average, then each by number."""
    return [("average", None), *((f"{word} {i}", i) for i in range(count))]


def localization_explorer(
    grids: Mapping[str, np.ndarray], images: Sequence[np.ndarray], masks: np.ndarray, names: Sequence[str],
    map_sigma: float = 8.0, fade: float = 0.0,
) -> Explorer:  # fmt: skip
    """Choose a kind of map, its smoothing and a threshold; see one image and the point on the PRO curve of all.

    Controls: ``kind``, ``image``, ``smoothing`` (sd in pixels at 512), ``threshold``. Kind and smoothing move the
    threshold to the lowest whose false positive rate is at most START_FPR, so that kinds can be compared.

    Args:
        grids: kind to scores ``(n, G, G)``, standardised and high where abnormal, as of ``Detector.combine``.
        images: n of ``(h, w, 3)`` uint8. masks: ``(n, E, E)`` bool. names: n.
        map_sigma: the smoothing to begin with. fade: of halos, as :func:`advit.scoring.pixel_maps` has it.

    Raises:
        ValueError: numbers of scores, images, masks and names differ.

    Test: tests/test_widgets.py
    """
    counts = {len(images), len(masks), len(names), *(len(g) for g in grids.values())}
    if len(counts) != 1:
        raise ValueError(f"scores, images, masks and names must be equally many, not {sorted(counts)}.")
    masks = np.asarray(masks, bool)

    @lru_cache(maxsize=8)
    def mapped(kind: str, smoothing: float) -> tuple[np.ndarray, ProCurve | None, tuple[float, float]]:
        maps = pixel_maps(np.asarray(grids[kind], np.float32), masks.shape[-1], smoothing, fade)
        low, high = np.quantile(maps[:, ::4, ::4], [0.5, 0.999])
        return maps, pro_points(maps, masks), (float(low), float(high))

    def draw(kind: str, image: int, smoothing: float, threshold: float) -> tuple[Figure, str]:
        maps, curve, span = mapped(kind, smoothing)
        text = f"{kind}, smoothing {smoothing:g}, threshold {threshold:.3f}"
        if curve is not None:
            fpr, pro = curve.at(threshold)
            text += f": false positive rate {fpr:.4f}, mean per-region overlap {pro:.4f} over {len(maps)} images"
        return localization_panel(images[image], masks[image], maps[image], span, threshold, curve), text

    def settings(kind: str, smoothing: float) -> dict[str, float]:
        maps, curve, (low, _) = mapped(kind, smoothing)
        high = float(maps.max())
        value = (low + high) / 2 if curve is None else curve.threshold(START_FPR)
        return {"min": low, "max": max(high, low + 1e-6), "step": max(high - low, 1e-6) / STEPS, "value": value}

    smoothings = sorted({*SMOOTHING, float(map_sigma)})
    kinds, first = list(grids), next((i for i, m in enumerate(masks) if m.any()), 0)
    controls = {
        "kind": ipywidgets.Dropdown(options=kinds, description="Map"),
        "image": ipywidgets.Dropdown(options=[(n, i) for i, n in enumerate(names)], value=first, description="Image"),
        "smoothing": ipywidgets.SelectionSlider(
            options=[(f"{s:g}", s) for s in smoothings], value=float(map_sigma), description="Smoothing"
        ),
        "threshold": ipywidgets.FloatSlider(
            description="Threshold", readout_format=".2f", **settings(kinds[0], float(map_sigma))
        ),
    }
    return LocalizationExplorer(controls, draw, settings)


class LocalizationExplorer(Explorer):
    """An :class:`Explorer` whose threshold follows the kind of map and the smoothing.

    Args:
        settings: kind and smoothing to ``min``, ``max``, ``step`` and ``value`` of the threshold.
    """

    def __init__(
        self, controls: Mapping[str, ipywidgets.Widget], draw: Callable[..., tuple[Figure, str]],
        settings: Callable[[str, float], dict[str, float]],
    ) -> None:  # fmt: skip
        self._settings, self._moving = settings, False
        super().__init__(controls, draw)

    def _changed(self, change: dict) -> None:
        if self._moving:
            return
        kind, smoothing, threshold = (self.controls[name] for name in ("kind", "smoothing", "threshold"))
        if change["owner"] in (kind, smoothing):
            self._moving = True
            try:
                with threshold.hold_trait_notifications():
                    for name, value in self._settings(kind.value, smoothing.value).items():
                        setattr(threshold, name, value)
            finally:
                self._moving = False
        self.redraw()
