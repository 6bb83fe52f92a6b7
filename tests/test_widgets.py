"""widgets.py: every control changes the picture, and the numbers shown are those of a direct computation."""

import io
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ipywidgets")

from advit.explain import AssociationView
from advit.metrics import region_weights
from advit.scoring import pixel_maps
from advit.widgets import START_FPR, association_explorer, localization_explorer

RNG = np.random.default_rng(0)


def view(seed: int, grid: int = 4) -> AssociationView:
    rng, n = np.random.default_rng(seed), grid**2
    series, prior = (rng.dirichlet(np.ones(n), size=(2, 3, n)).astype(np.float32) for _ in range(2))
    mask = np.zeros((32, 32), bool)
    mask[18:23, 9:15] = True
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    sigma, discrepancy = rng.uniform(0.5, 3, (2, 2, 3, n)).astype(np.float32)
    return AssociationView(image, mask, series, prior, sigma, discrepancy, grid)


@pytest.fixture
def explorer():
    return association_explorer([view(0), view(1)], ["crack/000", "stain/001 <b>"])


def test_it_starts_at_the_patch_most_covered_by_the_defect(explorer):
    values = {name: control.value for name, control in explorer.controls.items()}
    assert values == {"image": 0, "layer": None, "head": None, "row": 2, "column": 1}


@pytest.mark.parametrize("name, value", [("image", 1), ("layer", 1), ("head", 2), ("row", 3), ("column", 0)])
def test_every_control_changes_the_picture(explorer, name, value):
    before = explorer.picture.value
    explorer.controls[name].value = value
    after = explorer.picture.value
    assert after != before
    a, b = (np.asarray(Image.open(io.BytesIO(data))) for data in (before, after))
    assert a.shape == b.shape and a.shape[1] > 800


def test_the_numbers_are_those_of_the_view(explorer):
    for name, value in {"image": 1, "layer": 1, "head": 2, "row": 1, "column": 3}.items():
        explorer.controls[name].value = value
    v = view(1)
    assert f"discrepancy {v.discrepancy[1, 2, 7]:.3f} nats, sigma {v.sigma[1, 2, 7]:.3f} patches" in (
        explorer.readout.value
    )
    assert "stain/001 &lt;b&gt;, layer 1, head 2, patch in row 1, column 3 (0% defect)" in explorer.readout.value
    explorer.controls["layer"].value = None
    assert f"discrepancy {v.discrepancy[:, 2, 7].mean():.3f} nats" in explorer.readout.value


def test_views_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="different networks"):
        association_explorer([view(0), view(1, grid=5)], ["a", "b"])
    with pytest.raises(ValueError, match="2 views need as many different names"):
        association_explorer([view(0), view(1)], ["a", "a"])


def scores():
    rng = np.random.default_rng(5)
    masks = np.zeros((3, 64, 64), bool)
    masks[1, 8:24, 8:24] = masks[2, 40:56, 24:32] = masks[2, 0:8, 56:64] = True
    grids = {}
    for k, kind in enumerate(("density", "reconstruction")):
        grid = rng.normal(size=(3, 8, 8))
        grid[1, 1:3, 1:3] += 2 - k
        grid[2, 5:7, 3] += 2
        grids[kind] = grid.astype(np.float32)
    images = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(3)]
    return grids, images, masks, ["good/0", "crack/0", "stain/0"]


@pytest.fixture
def localizer():
    return localization_explorer(*scores(), map_sigma=8.0)


def direct(kind: str, smoothing: float, threshold: float) -> tuple[float, float]:
    grids, _, masks, _ = scores()
    maps = pixel_maps(grids[kind], 64, smoothing)
    return float(np.mean(maps[~masks] >= threshold)), float((region_weights(masks) * (maps[masks] >= threshold)).sum())


def test_the_threshold_starts_at_its_false_positive_rate(localizer):
    fpr, _ = direct("density", 8.0, localizer.controls["threshold"].value)
    assert 0.5 * START_FPR < fpr <= START_FPR
    assert localizer.controls["image"].value == 1  # the first with a defect


CHANGES = [("kind", "reconstruction"), ("image", 2), ("smoothing", 2.0), ("threshold", 1.0)]


@pytest.mark.parametrize("name, value", CHANGES)
def test_every_control_changes_the_picture_and_the_numbers_are_counts(localizer, name, value):
    before = localizer.picture.value
    localizer.controls[name].value = value
    assert localizer.picture.value != before
    now = {k: c.value for k, c in localizer.controls.items()}
    fpr, pro = direct(now["kind"], now["smoothing"], now["threshold"])
    assert f"false positive rate {fpr:.4f}, mean per-region overlap {pro:.4f} over 3 images" in localizer.readout.value


def test_kind_and_smoothing_move_the_threshold_to_the_same_false_positive_rate(localizer):
    for name, value in (("kind", "reconstruction"), ("smoothing", 0.0), ("kind", "density"), ("smoothing", 16.0)):
        localizer.controls[name].value = value
        slider, now = localizer.controls["threshold"], {k: c.value for k, c in localizer.controls.items()}
        assert slider.min < slider.value < slider.max
        fpr, _ = direct(now["kind"], now["smoothing"], slider.value)
        assert 0.5 * START_FPR < fpr <= START_FPR


def test_without_masks_there_is_a_map_but_no_curve():
    grids, images, masks, names = scores()
    shown = localization_explorer(grids, images, np.zeros_like(masks), names)
    assert "false positive" not in shown.readout.value
    before = shown.picture.value
    shown.controls["threshold"].value = shown.controls["threshold"].min
    assert shown.picture.value != before


def test_counts_must_agree():
    grids, images, masks, names = scores()
    with pytest.raises(ValueError, match=r"equally many, not \[2, 3\]"):
        localization_explorer(grids, images[:2], masks, names)


def test_a_change_is_fast():
    """Well under half a second of work, at the size of the quick profile, as the keyboard repeats."""
    shown = association_explorer([view(0, grid=16), view(1, grid=16)], ["a", "b"])
    shown.controls["row"].value = 3
    start = time.process_time()
    shown.controls["row"].value = 4
    shown.controls["column"].value = 9
    assert (time.process_time() - start) / 2 < 0.5


def test_only_this_module_needs_ipywidgets():
    code = """
import sys
sys.modules["ipywidgets"] = None  # as if it were not installed
import advit.cli, advit.study, advit.plots_associations, advit.plots_localization
try:
    import advit.widgets
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "advit.widgets needs ipywidgets. Get it with: pip install 'advit[notebooks]'\n", done.stderr
