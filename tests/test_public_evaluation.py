"""The public code's evaluation defects: each switch does what the code does, and moves only what it should."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from advit.cache import ImageCache
from advit.calibration import fit_standardiser
from advit.config import with_options
from advit.data import open_category
from advit.detector import Detector
from advit.images import read_mask, resize_mask
from advit.losses import ssim
from advit.metrics import image_metrics, pixel_metrics
from advit.networks import build_network
from advit.patches import patch_map_to_pixels
from advit.plots_public import defect_figure
from advit.presets import PRESETS
from advit.public_evaluation import (
    DEFECTS,
    METRICS,
    FinishedRun,
    NoiseLeftOn,
    Parts,
    defect_table,
    f1_at,
    finished_run,
    judge,
    unsorted_order,
)  # fmt: skip
from advit.public_geometry import aligned_corners, area_growth, crop_centre, grow_mask, peak_offsets
from advit.scoring import pixel_maps, score_images

CPU = torch.device("cpu")


def a_run(n=9, grid=8, size=64) -> FinishedRun:
    """Defects in patches of their own, found half the time, of two kinds and defect-free images."""
    rng = np.random.default_rng(3)
    kinds = np.array(["crack"] * 3 + ["good"] * 3 + ["stain"] * (n - 6))
    grids, masks = rng.normal(size=(n, grid, grid)).astype(np.float32), np.zeros((n, size, size), dtype=bool)
    for i in np.flatnonzero(kinds != "good"):
        row, column = rng.integers(1, grid - 1, 2)
        grids[i, row, column] += 3
        masks[i, 8 * row + 1 : 8 * row + 7, 8 * column + 1 : 8 * column + 7] = True
    grown = np.stack([F.max_pool2d(torch.from_numpy(m)[None].float(), 3, 1, 1)[0].numpy() > 0 for m in masks])
    parts = Parts(rng.random(n), rng.random(n), grids.max(axis=(1, 2)) / 10)
    return FinishedRun(grids, kinds, masks, grown, 1.5, size, 8.0, noisy_grids=grids + 1, parts=parts)


def test_without_a_switch_it_is_the_evaluation_of_the_project():
    run = a_run()
    maps = pixel_maps(run.grids, 64, 8.0)
    scores, labels = maps.max(axis=(1, 2)), run.kinds != "good"
    pixel = pixel_metrics(maps, run.masks)
    assert judge(run) == {
        "image_auroc": image_metrics(scores, labels)["image_auroc"],
        "image_f1": f1_at(scores, labels, 1.5),
        "pixel_auroc": pixel["pixel_auroc"],
        "pro": pixel["aupro_0.3"],
    }


@pytest.mark.parametrize("defect", [d for d in DEFECTS if d.number != "3"], ids=lambda d: d.switches[0])
def test_a_switch_moves_its_own_metrics_and_no_other(defect):
    run = a_run()
    base, found = judge(run, defect.base), judge(run, defect.switches)
    may = set(defect.metrics)
    if defect.switches[0] in ("crop", "ssim_added", "align_corners"):  # other scores, so another decision too
        may |= {"image_auroc", "image_f1"}
    assert {k for k in METRICS if base[k] != found[k]} <= may
    assert any(base[k] != found[k] for k in defect.metrics)


def test_the_image_score_is_the_maximum_of_the_deciding_map():
    run, rng = a_run(), np.random.default_rng(3)
    deciding = rng.normal(size=run.grids.shape).astype(np.float32)
    other = replace(run, deciding=deciding, score_sigma=16.0, noisy_deciding=deciding[::-1])
    for switches, grids in (((), deciding), (("noise",), deciding[::-1])):
        scores, base, found = pixel_maps(grids, 64, 16.0).max(axis=(1, 2)), judge(run, switches), judge(other, switches)
        labels = run.kinds != "good"
        assert found["image_auroc"] == image_metrics(scores, labels)["image_auroc"] != base["image_auroc"]
        assert found["image_f1"] == f1_at(scores, labels, run.threshold)
        assert (found["pixel_auroc"], found["pro"]) == (base["pixel_auroc"], base["pro"])


def test_without_masks_only_image_metrics_are_defined():
    found = judge(replace(a_run(), masks=None, grown=None), ("grown", "unsorted", "crop", "align_corners"))
    assert np.isnan([found["pixel_auroc"], found["pro"]]).all() and np.isfinite(found["image_auroc"])


def test_one_large_defect_found_and_a_small_one_missed():
    """STYLE.md: (10000 + 18) / 10036 and (1 + 0.15) / 2, with the public name for both."""
    masks, maps = np.zeros((2, 1, 256, 256), dtype=bool), np.zeros((1, 256, 256), dtype=np.float32)
    masks[:, 0, 20:120, 20:120] = masks[:, 0, 200:206, 200:206] = True
    maps[0, 20:120, 20:120] = 1
    run = FinishedRun(maps, np.array(["dent"]), masks[0], masks[1], 0.5, 256)
    assert round(judge(run)["pro"], 3) == 0.575
    assert round(judge(run, ("auroc_as_pro",))["pro"], 3) == 0.998


def test_an_unsorted_listing_keeps_good_images_and_uses_every_mask_once():
    kinds = np.array(["crack"] * 10 + ["good"] * 4 + ["stain"] * 10)
    order = unsorted_order(kinds, 0)
    assert sorted(order) == list(range(24)) and (order[10:14] == range(10, 14)).all()
    assert (order == unsorted_order(kinds, 0)).all() and (order != unsorted_order(kinds, 1)).any()
    matched = [np.mean((unsorted_order(kinds, s) == np.arange(24))[kinds != "good"]) for s in range(200)]
    assert np.mean(matched) == pytest.approx(1 / 20, abs=0.02)  # as in any permutation of 20
    assert list(unsorted_order(np.array(["good", "good"]), 0)) == [0, 1]


def test_a_grown_mask_is_every_pixel_that_a_defect_touches():
    mask = torch.zeros(16, 16, dtype=torch.uint8)
    mask[4:8, 7] = 1
    found, plain = grow_mask(mask, 8).numpy(), resize_mask(mask, 8).numpy()
    touched = np.zeros((8, 8), dtype=bool)
    touched[1:5, 3:5] = True  # a triangle of half-width 2 around 2 j + 0.5 reaches pixels 2 j - 1 ... 2 j + 2
    assert (found == touched).all()
    assert (plain <= found).all() and plain.sum() == 2 < found.sum() == 8


def test_small_defects_grow_by_the_factors_that_were_found():
    eight, twenty = area_growth(8), area_growth(20)
    assert 1.9 in eight.round(1) and eight.mean() == pytest.approx(1.80, abs=0.01)
    assert np.median(twenty) == pytest.approx(1.25, abs=0.005)
    assert area_growth(200, positions=4).max() < 1.05


def test_the_crop_loses_an_eighth_of_the_image():
    maps = np.ones((1, 550, 550))
    assert crop_centre(maps).shape == (1, 512, 512)
    assert 1 - crop_centre(maps).size / maps.size == pytest.approx(0.13, abs=0.005)
    assert crop_centre(np.arange(10000).reshape(1, 100, 100))[0, 0, 0] == 303


def test_aligned_corners_move_a_corner_patch_by_half_a_patch():
    off = peak_offsets(aligned_corners, 8, 512)
    assert off[0] == -31.5 and off[-1] == 31.5 and (np.diff(off) > 0).all()
    right = peak_offsets(lambda g, size: patch_map_to_pixels(torch.from_numpy(g), size).numpy(), 8, 512)
    assert np.abs(right).max() == 0.5


def test_f1_by_hand():
    assert f1_at(np.array([1.0, 3.0, 2.0, 4.0]), np.array([True, True, False, False]), 1.5) == pytest.approx(2 / 5)
    assert np.isnan(f1_at(np.ones(2), np.zeros(2, dtype=bool), 0))


def test_ssim_of_the_wrong_sign_prefers_good_reconstructions():
    kinds = np.array(["dent", "dent", "good", "good"])
    parts = Parts(np.zeros(4), np.array([0.1, 0.2, 0.8, 0.9]), np.zeros(4))
    run = FinishedRun(np.zeros((4, 2, 2), dtype=np.float32), kinds, None, None, 0.0, 2, parts=parts)
    assert judge(run, ("ssim_subtracted",))["image_auroc"] == 1
    assert judge(run, ("ssim_added",))["image_auroc"] == 0


def test_the_table_compares_each_defect_with_its_own_base():
    run = a_run()
    table = defect_table(run)
    assert list(dict.fromkeys(table["number"])) == ["3", "13", "14", "15", "16", "17", "18", "all"]
    row = table[(table["number"] == "15")].iloc[0]
    assert row["correct"] == judge(run, ("ssim_subtracted",))["image_auroc"] != judge(run)["image_auroc"]
    everything = table[(table["number"] == "all") & (table["metric"] == METRICS["pro"])].iloc[0]
    switches = ("unsorted", "auroc_as_pro", "ssim_added", "grown", "crop", "align_corners")
    assert everything["with_defect"] == pytest.approx(np.mean([judge(run, switches, s)["pro"] for s in range(5)]))
    assert np.allclose(table["difference"], table["with_defect"] - table["correct"])
    plain = defect_table(replace(run, noisy_grids=None, parts=None))
    assert not {"3", "15"} & set(plain["number"])


def small(**options):
    """The public network of a tiny size, with its configuration."""
    sizes = dict(image_size=32, patch=8, dim=16, depth=1, heads=2, mlp_dim=32, components=3, evaluation_size=64)
    return build_network(with_options(PRESETS["vt_adl"], {**sizes, **options}), 0).eval()


def test_noise_left_on_is_noise_of_the_trained_sd_in_eval_mode():
    network = small(noise_sd=0.2)
    images = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = NoiseLeftOn(network, 0).eval().encode(images) - network.encode(images)
        again = NoiseLeftOn(network, 0).eval().encode(images) - network.encode(images)
    assert difference.std().item() == pytest.approx(0.2, rel=0.02) and torch.equal(difference, again)


def test_noise_left_on_reaches_the_score_of_the_other_model_too():
    sizes = dict(image_size=32, patch=8, dim=16, depth=1, heads=2, mlp_dim=16, bottleneck=8, decoder_width=16,
                 density_context="self", density_target="encoded", target_cells=1, score_shifts=1,
                 precision="float32")  # fmt: skip
    network = build_network(with_options(PRESETS["quick"], sizes), 0).eval()
    load = lambda indices: torch.full((len(indices), 3, 32, 32), 90, dtype=torch.uint8)  # noqa: E731
    clean = score_images(network, load, 2, device=CPU)
    noisy = score_images(NoiseLeftOn(network, 0), load, 2, device=CPU)
    assert not np.allclose(clean["density"], noisy["density"])
    assert np.allclose(clean["discrepancy"], noisy["discrepancy"])  # it comes before the noise


def test_a_finished_run_has_everything_the_defects_need(tiny_mvtec):
    samples, network = open_category(tiny_mvtec, "part").test[1:4], small()  # two dents and a defect-free image
    test = ImageCache(samples, 32, mask_size=64)
    scores = score_images(network, test.batch, 3, device=CPU)
    detector = Detector(network, *[{k: fit_standardiser(v, "none") for k, v in scores.items()}] * 2, 0.0, 0.0)
    run = finished_run(detector, scores, samples, test.batch, CPU)
    assert (run.masks == np.stack([test.mask(i).numpy() for i in range(3)])).all()
    assert np.array_equal(run.grids, scores["density"]) and run.noisy_grids.shape == (3, 4, 4)
    assert not np.allclose(run.noisy_grids, run.grids)
    image = test.batch([2]).float() / 255
    with torch.no_grad():
        expected = ssim(image, network.decoder(network.capsule(network.encode(image)))).item()
    assert run.parts.ssim[2] == pytest.approx(expected, rel=1e-5)
    assert run.parts.nll == pytest.approx(scores["density"].max(axis=(1, 2)))
    assert (run.grown[0] == resize_mask(grow_mask(read_mask(samples[0].mask)), 64).numpy()).all()
    assert (run.masks <= run.grown).all() and run.masks.sum() < run.grown.sum()
    assert np.isfinite(defect_table(run)["with_defect"]).all()
    small_maps = finished_run(detector, scores, samples, test.batch, CPU, size=16)
    assert small_maps.masks.shape == small_maps.grown.shape == (3, 16, 16) and small_maps.evaluation_size == 16


def test_the_figure_has_a_panel_per_model_and_a_label_per_defect():
    run = a_run()
    tables = {"vt_adl": defect_table(run), "ADViT": defect_table(replace(run, noisy_grids=None, parts=None))}
    figure = defect_figure(tables)
    left, right = figure.axes
    labels = [t.get_text().replace("\n", " ") for t in left.get_yticklabels()]
    assert labels[0] == "3  noise left on at evaluation" and labels[-1].startswith("all together")
    assert len(labels) == 9
    assert [t.get_text() for t in right.texts].count("does not arise") == 2
    hollow = [line for line in left.lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == len(tables["vt_adl"])
