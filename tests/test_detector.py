"""detector.py: maps of different units are combined after standardising, and no image sets its own standard."""

import numpy as np
import pytest
import torch
from torch import nn

import advit.detector as module
from advit.calibration import Standardiser, decision_threshold, fit_standardiser
from advit.config import with_options
from advit.detector import Detector, calibrate, judge_by_others, judged_as_new, load_calibration
from advit.errors import CheckpointError, TrainingError
from advit.networks import build_network, fit_target
from advit.presets import PRESETS
from advit.scoring import score_batch, score_images
from advit.targets import FOLDS, Unseen

CPU = torch.device("cpu")
SMALL = dict(
    image_size=32, patch=8, dim=24, depth=1, heads=3, mlp_dim=32, bottleneck=16, components=2, density_hidden=8,
    evaluation_size=32, precision="float32", target_cells=2, filter_levels=2, reconstruction_scale=1, shift=2,
)  # fmt: skip


def network(**options):
    net = nn.Identity()
    net.target = None
    small = {"evaluation_size": 8, "map_sigma": 0.0, "score_sigma": 0.0, "image_size": 32, "target_cells": 1}
    small |= {"standardise": "image", "score_standardise": "position", "fade": 0.0}
    net.config = with_options(PRESETS["quick"], {**small, **options})
    return net


def photographs(count, seed=0, alike=()):
    """``load`` of different images, those of ``alike`` nearly the same as number 0."""
    images = torch.randint(0, 255, (count, 3, 32, 32), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    for i in alike:
        images[i] = images[0] // 2 + i % 7
    return lambda rows: images[list(rows)]


def detector_of(net, standards, threshold=0.0):
    return Detector(net, standards, standards, threshold, threshold)


def standard(mean, sd, two_sided=False):
    return Standardiser(np.full((2, 2), mean), np.full((2, 2), sd), 0.0, two_sided)


def test_combined_is_the_mean_of_standardised_maps():
    scores = {"density": np.full((1, 2, 2), 5.0), "reconstruction": np.full((1, 2, 2), 0.03)}
    detector = detector_of(network(), {"density": standard(3, 4), "reconstruction": standard(0.01, 0.01)})
    assert detector.combine(scores, "combined") == pytest.approx(np.full((1, 2, 2), (0.5 + 2) / 2))


def test_a_low_discrepancy_is_abnormal():
    scores = {"discrepancy": np.array([[[1.0, 3.0], [5.0, 3.0]]])}
    one_sided = detector_of(network(), {"discrepancy": standard(3, 2)}).combine(scores, "discrepancy")
    assert one_sided.tolist() == [[[1, 0], [-1, 0]]]
    two_sided = detector_of(network(), {"discrepancy": standard(3, 2, True)}).combine(scores, "discrepancy")
    assert two_sided.tolist() == [[[1, 0], [1, 0]]]


def test_an_image_is_judged_by_the_statistics_of_the_others():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(12, 4, 4)) + rng.normal(size=(4, 4)) * 30
    found = judge_by_others(network(evaluation_size=4), {"density": maps}, 5)
    rest = np.delete(maps, 5, axis=0)
    assert np.allclose(found.maps[0], (maps[5] - rest.mean()) / rest.std(), atol=1e-4)
    sd = np.maximum(rest.std(axis=0), 0.3 * np.sqrt(rest.var(axis=0).mean()))
    expected = np.abs(maps[5] - rest.mean(axis=0)) / sd
    assert found.scores == pytest.approx([expected.max()], rel=1e-4)


def test_a_map_says_where_in_one_unit_and_the_image_score_whether_in_each_place_s_own():
    flat, restless = standard(0, 1), Standardiser(np.zeros((2, 2)), np.array([[1.0, 1.0], [1.0, 10.0]]), 0.0, False)
    detector = Detector(network(evaluation_size=2), {"density": flat}, {"density": restless}, 6.0, 5.0)
    found = detector.judge_scores({"density": np.array([[[0.0, 4.0], [0.0, 8.0]], [[0.0, 6.0], [0.0, 0.0]]])})
    assert found.maps.reshape(2, 4).argmax(axis=1).tolist() == [3, 1]  # the highest score, wherever it is
    assert found.scores.tolist() == [4.0, 6.0]  # 8 is less than one sd where places vary that much


def test_the_threshold_comes_from_the_kept_out_images_alone_and_keeps_its_rate(monkeypatch):
    rng = np.random.default_rng(1)
    place = rng.normal(size=(8, 8)) * 30
    draw = lambda n: (rng.normal(size=(n, 8, 8)) + place).astype(np.float32)  # noqa: E731
    alarms = np.zeros(2)
    for _ in range(60):
        maps = draw(40)
        monkeypatch.setattr(module, "score_images", lambda *a, maps=maps, **k: {"density": maps})
        kept_out = list(range(3, 40, 4))
        detector = calibrate(network(), photographs(40), 40, kept_out, CPU)
        judged = [judge_by_others(network(), {"density": maps}, i) for i in kept_out]
        by_score, by_map = [j.scores[0] for j in judged], [j.maps.max() for j in judged]
        assert detector.threshold == pytest.approx(decision_threshold(np.array(by_score)), rel=1e-5)
        assert detector.map_threshold == pytest.approx(decision_threshold(np.array(by_map)), rel=1e-5)
        for standards, how in ((detector.standardisers, "image"), (detector.deciders, "position")):
            assert np.array_equal(standards["density"].mean, fit_standardiser(maps, how).mean)
        found = detector.judge_scores({"density": draw(20)})
        alarms += np.array(
            [(found.scores > detector.threshold).sum(), (found.maps.max(axis=(1, 2)) > detector.map_threshold).sum()]
        )
    assert (alarms / 1200 < 0.04).all()


def test_training_images_are_judged_by_the_folds_that_they_are_not_in():
    """The density of filters: every image as a new one would be, those kept out of training by all statistics."""
    load, kept_out = photographs(23), [4, 9, 14, 19]
    used = [i for i in range(23) if i not in kept_out]
    net = build_network(with_options(PRESETS["quick"], {**SMALL, "score_standardise": "shrunk"}), 0)
    fit_target(net, lambda rows: load([used[i] for i in rows]), len(used))
    scores = {"density": score_images(net, load, 23, device=CPU)["density"]}
    found = judged_as_new(net, load, scores, kept_out, CPU)
    assert len(found) == 23
    for i in range(23):
        images, unseen = load([i]).float() / 255, None
        if i in used:
            unseen = Unseen(torch.tensor([used.index(i) % FOLDS]))
        own = {"density": score_batch(net, images, wanted=["density"], unseen=unseen)["density"].numpy()}
        expected = judge_by_others(net, scores, i, own)
        assert found[i].scores == pytest.approx(expected.scores, rel=1e-4)
        assert np.allclose(found[i].maps, expected.maps, rtol=1e-3, atol=1e-3)
        as_seen = judge_by_others(net, scores, i)
        assert (np.abs(found[i].scores - as_seen.scores) > 1e-2).all() == (i in used)
    detector = calibrate(net, load, 23, kept_out, CPU)
    assert detector.threshold == pytest.approx(decision_threshold(np.concatenate([f.scores for f in found])))
    assert detector.map_threshold == pytest.approx(decision_threshold(np.array([f.maps.max() for f in found])))


def test_a_network_whose_statistics_are_not_at_hand_is_judged_on_the_images_kept_out():
    """Another score than the density, another target, or a target that comes from a checkpoint."""
    load, kept_out = photographs(23), [4, 9, 14, 19]
    for options in ({"score": "reconstruction"}, {"density_target": "pixels", "target_dim": 4, "target_cells": 1}, {}):
        net = build_network(with_options(PRESETS["quick"], {**SMALL, **options}), 0)
        scores = {net.config.score: np.random.default_rng(0).normal(size=(23, 8, 8))}
        if options:
            fit_target(net, load, 23)
        assert len(judged_as_new(net, load, scores, kept_out, CPU)) == 4
        assert len(judged_as_new(net, load, scores, [], CPU)) == 23


@pytest.mark.parametrize("alike, judged", [([], 40), ([1, 2, 3], 36), (range(1, 30), 40)])
def test_images_that_others_nearly_repeat_do_not_set_the_threshold_unless_too_few_are_left(alike, judged):
    scores = {"density": np.random.default_rng(0).normal(size=(40, 4, 4))}
    found = judged_as_new(network(), photographs(40, alike=alike), scores, [], CPU)
    assert len(found) == judged
    if judged < 40:
        assert found[0].scores == pytest.approx(judge_by_others(network(), scores, 4).scores)


def test_of_many_images_a_part_is_judged_evenly(monkeypatch):
    monkeypatch.setattr(module, "MOST_JUDGED", 20)
    scores = {"density": np.random.default_rng(0).normal(size=(50, 4, 4))}
    found = judged_as_new(network(), photographs(50), scores, [], CPU)
    expected = [judge_by_others(network(), scores, i).scores[0] for i in range(0, 50, 3)]
    assert [f.scores[0] for f in found] == pytest.approx(expected)


def save(run, **standards):
    detector_of(network(), standards, 0.5).save(run, {"seed": 0})


@pytest.mark.parametrize(
    ("score", "stored", "missing"),
    [
        ("reconstruction", ["density"], "reconstruction"),
        ("combined", ["density"], "reconstruction"),
        ("combined", ["association", "density", "discrepancy"], "reconstruction"),
        ("combined", ["discrepancy"], "density, reconstruction"),
        ("density", [], "density"),
    ],
)
def test_a_calibration_without_the_standards_of_the_map_is_refused(tmp_path, score, stored, missing):
    save(tmp_path, **{name: standard(3, 4) for name in stored})
    with pytest.raises(CheckpointError, match=f"'no standard of {missing}'"):
        load_calibration(network(score=score), tmp_path, {"seed": 0})


@pytest.mark.parametrize("score", ["density", "combined"])
@pytest.mark.parametrize("others", [[], ["association"]])
def test_a_calibration_may_hold_more_standards_than_the_map_needs(tmp_path, score, others):
    stored = {name: standard(3, 4) for name in [*module.PARTS[score], *others]}
    save(tmp_path, **stored)
    detector = load_calibration(network(score=score), tmp_path, {"seed": 0})
    assert detector.threshold == detector.map_threshold == 0.5
    assert set(detector.standardisers) == set(detector.deciders) == set(stored)
    assert np.array_equal(detector.combine({k: np.full((1, 2, 2), 5.0) for k in stored}), np.full((1, 2, 2), 0.5))


@pytest.mark.parametrize("shape", [(3, 3), (4,), ()])
@pytest.mark.parametrize("name", ["density", "reconstruction", "association"])
def test_standards_of_another_size_than_the_network_s_grid_are_refused(tmp_path, shape, name):
    standards = {n: standard(3, 4) for n in ("density", "reconstruction", "association")}
    save(tmp_path, **standards | {name: Standardiser(np.zeros(shape), np.ones(shape), 0.0, False)})
    with pytest.raises(CheckpointError, match="standards that are not 2 x 2"):
        load_calibration(network(score="combined"), tmp_path, {"seed": 0})


def test_scores_that_are_not_finite_end_training_and_no_map_is_made_of_them(monkeypatch):
    scores = {"density": np.ones((6, 2, 2)), "discrepancy": np.ones((6, 2, 2))}
    scores["discrepancy"][3, 1, 0] = np.nan
    monkeypatch.setattr(module, "score_images", lambda *a, **k: scores)
    with pytest.raises(TrainingError, match="weights whose discrepancy scores are not finite"):
        calibrate(network(), photographs(6), 6, [], CPU, wanted=["discrepancy"])
    detector = detector_of(network(), {name: standard(3, 2) for name in scores})
    assert np.isfinite(detector.judge_scores(scores).maps).all()
    with pytest.raises(CheckpointError, match="not finite"):
        detector.judge_scores(scores, "discrepancy")
