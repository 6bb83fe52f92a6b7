"""plots.py: a name is drawn as it is spelled, whatever figure shows it."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from advit.plots import metrics_figure, overview_figure, save_figure
from advit.plots_associations import distribution_figure, effects_figure
from advit.plots_claims import comparison_figure, pairs_figure, sweep_figure
from advit.plots_data import examples_figure, floors_figure, position_figure, sizes_figure
from advit.plots_localization import gaussians_figure, kinds_figure

NAME = r"part$\frac{$"  # what lies between the two dollars would be a formula, and a faulty one
RUN = {"variant": ["advit"], "category": NAME, "seed": 0, "kind": NAME, "m": 0.5, "share": 0.1}
METRICS = {"image_auroc": 0.5, "pixel_auroc": 0.5, "aupro_0.3": 0.5}
PICTURE = {"image": np.zeros((8, 8, 3), np.uint8), "mask": np.eye(8) > 0, "anomaly_map": np.eye(8)}
VALUES = np.arange(4.0).reshape(2, 2)
FIGURES = {
    "metrics": lambda t: metrics_figure(t.assign(**METRICS), {key: key for key in METRICS}),
    "overview": lambda t: overview_figure([{**PICTURE, "low": 0.0, "threshold": 0.5, "title": NAME}]),
    "distribution": lambda t: distribution_figure({NAME: (np.arange(5.0), np.arange(5.0))}, {NAME: "P"}, "AD"),
    "effects": lambda t: effects_figure({NAME: VALUES}, "P"),
    "pairs": lambda t: pairs_figure({"AU-PRO": t.assign(off=0.1, on=0.2)}, "off", "on", "on minus off"),
    "sweep": lambda t: sweep_figure({"AU-PRO": t.assign(x=1, value=0.5)}, "sd"),
    "comparison": lambda t: comparison_figure(t, {"m": "metric"}),
    "examples": lambda t: examples_figure(NAME, [(NAME, PICTURE["image"], PICTURE["mask"])]),
    "sizes": sizes_figure,
    "position": lambda t: position_figure({NAME: (VALUES, VALUES, 0.5)}),
    "floors": lambda t: floors_figure(t, {"m": "metric"}, ["m"], {"m": 0.5}),
    "kinds": lambda t: kinds_figure(t, ["advit"], "m", "metric"),
    "gaussians": lambda t: gaussians_figure(t.assign(components=1), {"m": "metric"}),
}


@pytest.mark.parametrize("figure", FIGURES)
def test_a_name_with_dollars_is_no_formula(figure, tmp_path):
    save_figure(FIGURES[figure](pd.DataFrame(RUN)), tmp_path / "figure")
    assert f"<!-- {NAME} -->" in (tmp_path / "figure.svg").read_text()


@pytest.mark.parametrize("figure", FIGURES)
def test_nothing_is_cut_off_at_the_border(figure, tmp_path):
    save_figure(FIGURES[figure](pd.DataFrame(RUN)), tmp_path / "figure")
    with Image.open(tmp_path / "figure.png") as picture:
        ink = np.asarray(picture.convert("L")) < 250
    assert ink.any() and not any(edge.any() for edge in (ink[0], ink[-1], ink[:, 0], ink[:, -1]))


def test_a_picture_has_the_ticks_that_its_layout_was_made_for(tmp_path):
    """Without the house style a tick of three decimals is cut off at the left."""
    table = pd.DataFrame({"x": [0, 1, 2, 3], "category": "a", "value": [0.9171, 0.9302, 0.9404, 0.9866]})
    figure = sweep_figure({"AU-PRO": table, "pixel-level AUROC": table}, "sd")
    save_figure(figure, tmp_path / "figure")
    svg = (tmp_path / "figure.svg").read_text()
    assert all(f"<!-- {t.get_text()} -->" in svg for t in figure.axes[0].get_yticklabels()[1:-1])
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.size == tuple(int(200 * side) for side in figure.get_size_inches())
        assert (np.asarray(picture.convert("L"))[:, 0] > 250).all()
