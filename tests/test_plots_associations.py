"""plots_associations.py: what is drawn is what the view holds, at the place where it belongs."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Circle, Rectangle

from advit.explain import AssociationView
from advit.plots_associations import (
    DEFECT,
    NORMAL,
    association_panel,
    associations_figure,
    distribution_figure,
    effects_figure,
    heads_figure,
    layers_figure,
)


@pytest.fixture
def view() -> AssociationView:
    rng = np.random.default_rng(0)
    series, prior = (rng.dirichlet(np.ones(25), size=(2, 3, 25)).astype(np.float32) for _ in range(2))
    mask = np.zeros((50, 50), bool)
    mask[22:29, 31:39] = True
    image = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    sigma, discrepancy = rng.uniform(0.5, 3, (2, 2, 3, 25)).astype(np.float32)
    return AssociationView(image, mask, series, prior, sigma, discrepancy, 5)


def rendered(figure):
    figure.canvas.draw()
    return figure


def frame_of(ax) -> tuple[float, float]:
    """Centre of the frame around the patch."""
    frame = next(p for p in ax.patches if isinstance(p, Rectangle))
    return frame.get_x() + frame.get_width() / 2, frame.get_y() + frame.get_height() / 2


def test_associations_of_both_patches(view):
    figure = rendered(associations_figure(view, normal=4, defect=13, layer=1, head=2))
    axes = figure.axes[:6]
    for ax, name, i in ((axes[1], "series", 4), (axes[2], "prior", 4), (axes[4], "series", 13), (axes[5], "prior", 13)):
        times = getattr(view, name)[1, 2, i].reshape(5, 5) * 25
        assert np.allclose(ax.images[-1].get_array(), times)
        assert frame_of(ax) == pytest.approx(((i % 5 + 0.5) / 5, (i // 5 + 0.5) / 5))
    assert axes[0].get_title() == f"normal patch (0, 4)\nAD {view.discrepancy[1, 2, 4]:.2f} nats"
    assert axes[3].get_title() == f"abnormal patch (2, 3)\nAD {view.discrepancy[1, 2, 13]:.2f} nats"
    assert figure.get_suptitle().startswith("layer 1, head 2. Frame: ")


def test_averages_are_averages(view):
    figure = associations_figure(view, 0, 13)
    assert np.allclose(figure.axes[1].images[-1].get_array().ravel(), view.series.mean(axis=(0, 1))[0] * 25)
    assert figure.get_suptitle().startswith("mean over layers, mean over heads. ")


def test_heads_have_their_series_and_a_circle_of_their_sigma(view):
    figure = rendered(heads_figure(view, 13))
    assert len(figure.axes) == 2 * 3 + 1
    for k, ax in enumerate(figure.axes[:6]):
        layer, head = divmod(k, 3)
        circle = next(p for p in ax.patches if isinstance(p, Circle))
        assert circle.radius == pytest.approx(view.sigma[layer, head, 13] / 5)
        assert circle.center == pytest.approx((3.5 / 5, 2.5 / 5))
        assert np.allclose(ax.images[-1].get_array().ravel(), view.series[layer, head, 13] * 25)
        assert f"AD {view.discrepancy[layer, head, 13]:.2f}" in ax.get_title()


@pytest.mark.parametrize("name", ["sigma", "discrepancy"])
def test_layers_share_one_scale(view, name):
    figure = rendered(layers_figure(view, name))
    maps = getattr(view, name).mean(axis=1)
    drawn = [ax.images[0] for ax in figure.axes[1:3]]
    for picture, values in zip(drawn, maps, strict=True):
        assert np.allclose(picture.get_array().ravel(), values)
        assert picture.get_clim() == pytest.approx((0 if name == "sigma" else maps.min(), maps.max()))
    assert figure.axes[2].get_title() == f"layer 1, mean {maps[1].mean():.2f}"


def test_distributions_are_cumulative_shares():
    groups = {"gear": (np.array([1.0, 2.0]), np.array([3.0, 1.5, 4.0, 5.0])), "weave": (np.ones(3), np.zeros(2))}
    figure = rendered(distribution_figure(groups, {"gear": "P = 0.875", "weave": "P = 0.000"}, "AD in nats"))
    first = figure.axes[0]
    assert first.get_title() == "gear\nP = 0.875"
    colours = [line.get_color() for line in first.lines]
    assert colours == [NORMAL, DEFECT]
    x, y = first.lines[0].get_data()
    assert y[x == 3.0].max() == pytest.approx(0.5)  # 1.5 and 3.0, of four
    assert first.lines[0].get_linestyle() != first.lines[1].get_linestyle()


def test_effects_are_written_where_they_belong():
    values = np.array([[0.1, 0.5, 0.9], [0.2, 0.3, 0.4]])
    figure = rendered(effects_figure({"gear": values, "weave": 1 - values}, "P"))
    written = {t.get_position(): t.get_text() for t in figure.axes[1].texts}
    assert written[(2, 0)] == "0.10" and written[(0, 1)] == "0.80" and len(written) == 6
    assert figure.axes[0].images[0].get_clim() == (0, 1)


@pytest.mark.parametrize("patch, colour", [(13, "#000000"), (0, NORMAL)])
def test_panel(view, patch, colour):
    figure = rendered(association_panel(view, patch, layer=0))
    assert f"{view.discrepancy[0, :, patch].mean():.2f} nats at the patch" in figure.axes[3].get_title()
    assert np.allclose(figure.axes[1].images[-1].get_array().ravel(), view.series[0, :, patch].mean(axis=0) * 25)
    frames = [p for p in figure.axes[0].patches if isinstance(p, Rectangle)]
    assert to_hex(frames[-1].get_edgecolor()).upper() == colour


@pytest.mark.parametrize("scale", [1, 0.01, 30])
def test_every_word_of_the_panel_is_on_the_page(view, scale):
    figure = rendered(association_panel(replace(view, discrepancy=view.discrepancy * scale + 1.5 * scale), 13))
    assert figure.axes[-1].get_ylabel() == "nats"
    page = figure.get_window_extent()
    for ax in figure.axes:
        box = ax.get_tightbbox()
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1


def test_an_image_without_a_defect_is_drawn_without_outline(view):
    empty = AssociationView(view.image, np.zeros((50, 50), bool), view.series, view.prior, view.sigma,
                            view.discrepancy, 5)  # fmt: skip
    assert not rendered(association_panel(empty, 3)).axes[0].collections
    assert rendered(association_panel(view, 3)).axes[0].collections
