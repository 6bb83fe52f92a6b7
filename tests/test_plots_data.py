"""plots_data.py: figures hold what they should: panels, titles, labels, and the values given."""

import io

import numpy as np
import pandas as pd
import pytest

from advit.plots_data import examples_figure, floors_figure, position_figure, sizes_figure


def drawn(figure):
    """Panels that show something, after drawing the figure as a file, which must not fail."""
    figure.savefig(io.BytesIO(), format="svg")
    return [ax for ax in figure.axes if ax.images or ax.lines or ax.texts]


def example(title, h=40, w=60, box=None):
    mask = np.zeros((h, w), bool)
    if box:
        mask[box] = True
    return title, np.full((h, w, 3), 90, np.uint8), mask


def test_examples_have_a_panel_per_kind_and_an_outline_where_there_is_a_mask():
    inside = (slice(10, 20), slice(30, 40))
    shown = [example("good"), example("bent_part", box=inside), example("crack", 60, 40), example("a"), example("b")]
    figure = examples_figure("metal_nut", shown)
    panels = drawn(figure)
    assert figure.get_suptitle() == "metal nut"
    assert [ax.get_title() for ax in panels] == ["good", "bent part", "crack", "a", "b"]
    assert [len(ax.collections) for ax in panels] == [0, 1, 0, 0, 0]
    ((x0, y0), (x1, y1)) = panels[1].collections[0].get_paths()[0].get_extents().get_points()
    assert (x0, y0) == pytest.approx((29.4, 9.4), abs=0.05) and (x1, y1) == pytest.approx((39.6, 19.6), abs=0.05)
    assert figure.get_figwidth() == pytest.approx(6.3)


def test_a_mask_of_the_whole_image_has_no_outline_to_draw():
    (panel,) = drawn(examples_figure("x", [example("all", box=(slice(None), slice(None)))]))
    assert not panel.collections


def test_sizes_show_every_image_and_the_median_in_percent():
    sizes = pd.DataFrame({
        "category": ["b"] * 5 + ["a"] * 2, "kind": ["hole"] * 3 + ["dirt_spot", "hole", "cut", "cut"],
        "share": [0.01, 0.03, 0.02, 0.05, 0.04, np.nan, np.nan],
    })  # fmt: skip
    panels = drawn(sizes_figure(sizes))
    assert [ax.get_title() for ax in panels] == ["b", "a"]
    assert [t.get_text() for t in panels[0].get_yticklabels()] == ["dirt spot", "hole"]
    assert all(ax.get_xlabel() == "share of the image, % (bar: median)" for ax in panels)
    assert panels[0].get_xscale() == "log"
    dots = [line.get_xdata() for line in panels[0].lines if line.get_marker() == "o"]
    assert [d.tolist() for d in dots] == [pytest.approx([5]), pytest.approx([1, 2, 3, 4])]
    bars = [line.get_xdata()[0] for line in panels[0].lines if line.get_marker() != "o"]
    assert bars == pytest.approx([5, 2.5])
    assert [t.get_text() for t in panels[1].texts] == ["no mask"]


@pytest.mark.parametrize("count", [1, 3, 15])
def test_sizes_have_a_panel_per_category_and_all_dots_inside(count):
    rng = np.random.default_rng(count)
    rows = [(f"c{c}", f"k{k}", s) for c in range(count) for k in range(3) for s in 10 ** rng.uniform(-4, -0.5, 9)]
    figure = sizes_figure(pd.DataFrame(rows, columns=["category", "kind", "share"]))
    panels = drawn(figure)
    assert len(panels) == count
    for ax in panels:
        low, high = ax.get_xlim()
        assert all(low < x < high for line in ax.lines for x in line.get_xdata())


@pytest.mark.parametrize("count", [1, 3, 6])
def test_position_shows_mean_above_sd_on_one_scale(count):
    ramp = np.arange(64.0).reshape(8, 8)
    figure = position_figure({f"part_{i}": (3 * ramp, ramp / (i + 1), 0.1 * i) for i in range(count)})
    panels = [ax for ax in drawn(figure) if ax.images]
    titled = [ax for ax in panels if ax.get_title()]
    assert [ax.get_title() for ax in titled] == [f"part {i}\nposition explains {10 * i} %" for i in range(count)]
    assert all(np.array_equal(ax.images[0].get_array(), 3 * ramp) for ax in titled)
    assert all(ax.images[0].get_clim() == (0, 255) for ax in titled)
    below = [ax for ax in panels if not ax.get_title()]
    assert len(below) == count
    assert len({ax.images[0].get_clim() for ax in below}) == 1 and below[0].images[0].get_clim()[1] > 60
    assert figure.axes[-1].get_ylabel() == "grey levels"
    assert {t.get_text() for ax in panels for t in ax.texts} == {"mean", "standard deviation"}


def test_floors_show_each_method_in_each_category_and_chance():
    table = pd.DataFrame({
        "variant": ["PCA", "DoG"] * 2, "category": ["metal_nut"] * 2 + ["tile"] * 2,
        "image_auroc": [0.9, 0.4, 0.8, 0.7], "aupro_0.3": [0.5, np.nan, 0.6, 0.2],
    })  # fmt: skip
    names = {"image_auroc": "image-level AUROC", "aupro_0.3": "AU-PRO (FPR ≤ 0.3)"}
    figure = floors_figure(table, names, list(names), {"image_auroc": 0.5, "aupro_0.3": 0.15})
    panels = drawn(figure)
    assert [ax.get_title() for ax in panels] == list(names.values())
    assert [t.get_text() for t in panels[0].get_yticklabels()] == ["metal nut", "tile"]
    chance, pca, dog = panels[0].lines
    assert chance.get_xdata()[0] == 0.5
    assert pca.get_xdata().tolist() == [0.9, 0.8] and dog.get_xdata().tolist() == [0.4, 0.7]
    assert panels[0].get_xlim()[0] < 0.4 and panels[1].get_xlim()[0] < 0.15
    assert pca.get_color() != dog.get_color() and pca.get_marker() != dog.get_marker()
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["PCA", "DoG", "chance"]


def test_floors_without_any_defined_metric_are_drawn_empty():
    table = pd.DataFrame({"variant": ["PCA"], "category": ["x"], "pixel_auroc": [np.nan]})
    assert drawn(floors_figure(table, {"pixel_auroc": "pixel-level AUROC"}, ["pixel_auroc"], {"pixel_auroc": 0.5}))


def test_nothing_to_show_is_an_empty_figure():
    sizes = pd.DataFrame(columns=["category", "kind", "image", "share", "regions"])
    assert not drawn(sizes_figure(sizes))
