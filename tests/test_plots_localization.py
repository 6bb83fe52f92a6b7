"""plots_localization.py: decisions have the right colours, the point lies on the curve, means are means."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from advit.explain_localization import DensitySteps, pro_points
from advit.plots import settle
from advit.plots_localization import (
    FALSE,
    FOUND,
    MISSED,
    decisions,
    gaussians_figure,
    kinds_figure,
    localization_panel,
    overlaid,
    steps_figure,
)

RNG = np.random.default_rng(0)


def steps(expected: bool) -> DensitySteps:
    mask = np.zeros((32, 32), bool)
    mask[8:14, 20:28] = True
    image = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    weight = RNG.dirichlet(np.ones(3), size=(4, 4))
    mean, grid, pixels = RNG.normal(size=(4, 4, 3, 5)), RNG.normal(size=(4, 4)), RNG.normal(size=(32, 32))
    painted = RNG.uniform(size=(16, 16, 3)) if expected else None
    return DensitySteps(image, mask, weight, mean, mean, grid**2, painted, grid, grid + 1, pixels, pixels + 1)


def test_decisions_by_hand():
    found, mask = np.array([[True, True], [False, False]]), np.array([[True, False], [True, False]])
    picture = decisions(found, mask)
    assert picture[0, 0].tolist() == list(FOUND)
    assert picture[0, 1].tolist() == list(FALSE)
    assert picture[1, 0].tolist() == list(MISSED)
    assert picture[1, 1].tolist() == [1, 1, 1]


@pytest.mark.parametrize("expected", [True, False])
def test_steps_show_every_array(expected):
    s = steps(expected)
    figure = steps_figure(s, threshold=0.7)
    figure.canvas.draw()
    shown = [ax.images[0].get_array() for ax in figure.axes[:8]]
    for drawn, values in zip(
        shown,
        [s.image, s.expected if expected else s.miss, s.effective_components, s.nll, s.standardised, s.upsampled,
         s.smoothed, decisions(s.smoothed >= 0.7, s.mask)], strict=True,
    ):  # fmt: skip
        assert np.allclose(drawn, values)
    assert figure.axes[7].get_title() == "that map ≥ threshold\n0.70"
    assert figure.axes[4].images[0].get_clim() == figure.axes[5].images[0].get_clim()
    assert figure.axes[6].images[0].get_clim() == (min(0.7, s.smoothed.min()), s.smoothed.max())
    assert figure.axes[6].get_title() == "smoothed"
    faded = steps_figure(replace(s, fades=True), threshold=99.0)
    assert faded.axes[6].get_title() == "smoothed, and\nhalos faded"
    assert faded.axes[6].images[0].get_clim()[1] == 99  # the threshold's mark is on the bar
    assert expected or figure.axes[1].get_title() == "squared distance from\nthe mean, per dimension"
    assert figure.axes[2].images[0].get_clim() == (1, 3)
    assert figure.axes[3].get_title() == "NLL per\ndimension, nats"
    surprised = steps_figure(replace(s, score="surprise"), threshold=0.7)
    assert surprised.axes[3].get_title() == "surprise per\ndimension, nats"


def test_of_one_gaussian_alone_its_log_variance_is_shown():
    s = steps(False)
    one = replace(s, weight=np.ones((4, 4, 1)), mean=s.mean[:, :, :1], log_variance=s.log_variance[:, :, :1])
    figure = steps_figure(one, threshold=0.7)
    figure.canvas.draw()
    assert np.allclose(figure.axes[2].images[0].get_array(), s.log_variance[:, :, 0].mean(axis=-1))
    assert figure.axes[2].get_title() == "log-variance of the\nGaussian, mean"


def test_words_for_decisions_lie_side_by_side_on_the_page():
    figure = settle(steps_figure(steps(False), threshold=0.7))
    figure.canvas.draw()
    words = figure.axes[7].texts
    assert [t.get_text() for t in words] == ["found", "missed", "false alarm"]
    boxes = [t.get_window_extent() for t in words]
    assert boxes[0].x1 < boxes[1].x0 and boxes[1].x1 < boxes[2].x0
    assert boxes[2].x1 <= figure.get_window_extent().x1 and min(b.y0 for b in boxes) >= 0


def test_panel_has_the_point_on_the_curve():
    maps, masks = RNG.normal(size=(2, 20, 20)).astype(np.float32), np.zeros((2, 20, 20), bool)
    masks[0, 3:9, 3:9] = masks[1, 12:15, 4:19] = True
    maps[masks] += 1
    curve = pro_points(maps, masks)
    figure = localization_panel(np.zeros((20, 20, 3), np.uint8), masks[0], maps[0], (0, 3), 1.5, curve)
    figure.canvas.draw()
    bar, plot = figure.axes[3:]
    assert bar.get_xlim() == (0, 3) and [line.get_xdata()[0] for line in bar.lines] == [1.5]
    fpr = np.mean(maps[~masks] >= 1.5)
    pro = np.mean([np.mean(maps[k][masks[k]] >= 1.5) for k in range(2)])
    point = plot.lines[-1]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == pytest.approx((fpr, pro))
    x, y = plot.lines[0].get_data()
    assert np.interp(fpr, x, y) == pytest.approx(pro, abs=0.03)
    assert plot.get_title() == f"FPR {fpr:.3f}, overlap {pro:.3f}"


def test_panel_without_masks_says_so():
    image, flat = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8))
    figure = localization_panel(image, flat > 0, flat, (0, 1), 0.5, None)
    figure.canvas.draw()
    assert figure.axes[4].texts[0].get_text() == "no masks: no PRO curve"


def test_overlay_is_grey_where_the_map_is_low_and_keeps_its_place():
    image = np.full((4, 4, 3), 100, np.uint8)
    heat = np.zeros((8, 8))
    heat[6, 1] = 5
    picture = overlaid(image, heat, (1.0, 2.0))
    assert picture.shape == (8, 8, 3)
    coloured = np.argwhere(np.abs(picture - 100 / 255).max(axis=-1) > 1e-9)
    assert coloured.tolist() == [[6, 1]]


def test_kinds_are_means_over_seeds():
    table = pd.DataFrame({"variant": "density", "category": ["b", "a", "a"], "aupro_0.3": [0.9, 0.2, 0.4]})
    both = pd.concat([table.assign(variant="association"), table])
    figure = kinds_figure(both, ["density", "association"], "aupro_0.3", "AU-PRO")
    figure.canvas.draw()
    dots = figure.axes[0].lines[0]
    assert dots.get_xdata() == pytest.approx([0.3, 0.9])
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["a", "b"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "density", "association", "chance", "single run"
    ]  # fmt: skip


def test_gaussians_show_every_run_and_the_mean():
    rows = [(k, c, s, k / 10 + s / 100) for k in (1, 5) for c in ("a", "b") for s in (0, 1)]
    table = pd.DataFrame(rows, columns=["components", "category", "seed", "m"])
    figure = gaussians_figure(table, {"m": "a metric"})
    figure.canvas.draw()
    lines = figure.axes[0].lines
    assert len(lines) == 4 + 1
    assert lines[-1].get_ydata() == pytest.approx([0.105, 0.505])
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b", "mean"]
