"""calibration.py: standardisation decided by training images, and the threshold's false alarms."""

import numpy as np
import pytest
from scipy import stats

from advit.calibration import decision_threshold, fit_standardiser, held_out


def maps(n=400, g=6, between=0.0, seed=0):
    rng = np.random.default_rng(seed)
    place = rng.normal(size=(g, g)) * between
    return 3 + place + rng.normal(size=(n, g, g)) * rng.uniform(0.5, 2, size=(g, g))


def test_position_explains_nothing_in_a_texture_and_all_in_an_aligned_object():
    assert fit_standardiser(maps(between=0), "position").position_share < 0.01
    assert fit_standardiser(maps(between=30), "position").position_share > 0.98


def test_share_is_the_variance_between_positions():
    x = maps(between=2.0)
    share = fit_standardiser(x, "position").position_share
    means = [x[:, i, j].mean() for i in range(6) for j in range(6)]
    within = np.mean([x[:, i, j].var() for i in range(6) for j in range(6)])
    between = np.var(means) - within / (len(x) - 1)
    assert share == pytest.approx(between / (between + within))


def test_an_aligned_object_is_judged_position_by_position_on_both_sides():
    x = maps(between=100)
    standard = fit_standardiser(x, "position")
    assert standard.two_sided
    for i, j in [(0, 0), (3, 5)]:
        expected = np.abs(x[:, i, j] - x[:, i, j].mean()) / x[:, i, j].std()
        assert np.allclose(standard(x)[:, i, j], expected, atol=1e-4)


def test_a_texture_has_one_standard_on_one_side():
    x = maps(between=0.3)
    standard = fit_standardiser(x, "position")
    assert 0 < standard.position_share < 0.5 and not standard.two_sided
    assert np.ptp(standard.mean) == np.ptp(standard.sd) == 0
    assert np.allclose(standard(x), fit_standardiser(x, "image")(x))


def test_no_position_is_judged_much_more_finely_than_the_average_one():
    x = maps(between=100)
    x[:, 2, 3] = 50.0  # never varied
    standard = fit_standardiser(x, "position")
    assert standard.sd[2, 3] == pytest.approx(0.3 * np.sqrt(x.var(axis=0).mean()))


def test_image_statistics_keep_the_order_of_all_pixels():
    x = maps(between=2)
    z = fit_standardiser(x, "image")(x)
    assert z.mean() == pytest.approx(0, abs=1e-3) and z.std() == pytest.approx(1, abs=1e-3)
    assert np.array_equal(np.argsort(z.ravel()[::97]), np.argsort(x.ravel()[::97]))


def test_none_changes_nothing_and_a_constant_position_does_not_divide_by_zero():
    x = maps()
    assert np.allclose(fit_standardiser(x, "none")(x), x)
    assert np.isfinite(fit_standardiser(np.ones((3, 2, 2)), "position")(np.zeros((1, 2, 2)))).all()


def test_a_few_images_never_set_a_standard_per_position():
    for n in (1, 2, 4):
        standard = fit_standardiser(maps(n=n, between=100), "position")
        assert not standard.two_sided and np.isfinite(standard(maps(n=2, between=100))).all()


def test_threshold_is_the_prediction_bound_and_keeps_its_rate():
    rng = np.random.default_rng(0)
    x = rng.normal(size=8)
    expected = x.mean() + stats.t.ppf(0.99, 7) * x.std(ddof=1) * np.sqrt(1 + 1 / 8)
    assert decision_threshold(x) == pytest.approx(expected)
    alarms = [rng.normal() > decision_threshold(rng.normal(size=8), 0.05) for _ in range(4000)]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("count, kept", [(10, 0), (20, 4), (28, 4), (209, 20), (727, 72)])
def test_a_tenth_is_kept_out_and_at_least_four(count, kept):
    indices = held_out(count)
    assert len(indices) == kept == len(set(indices))
    assert all(0 <= i < count for i in indices)
