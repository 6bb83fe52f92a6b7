"""calibration.py: standardisation decided by training images, and the threshold's false alarms."""

import numpy as np
import pytest
from scipy import stats

from advit.calibration import LEAST_SD, decision_threshold, fit_standardiser, held_out, share_beyond_chance


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


def test_shrunk_statistics_of_an_aligned_object_approach_each_position_s_own():
    x, apart = maps(n=4000, between=100), []
    for n in (10, 100, 4000):
        standard = fit_standardiser(x[:n], "shrunk")
        assert not standard.two_sided
        apart.append(np.abs(standard.sd / x[:n].std(axis=0) - 1).max())
        assert np.allclose(standard.mean, x[:n].mean(axis=0), atol=0.1)
    assert apart[0] > apart[1] > apart[2] and apart[2] < 0.01
    assert np.allclose(standard(x)[7], (x[7] - x.mean(axis=0)) / x.std(axis=0), atol=0.02)
    assert standard(x).min() < -3 < 3 < standard(x).max()  # one-sided


def test_shrunk_statistics_of_a_pure_texture_are_nearly_the_same_everywhere():
    """Over many textures: what is left of the spread that chance makes of a position's own mean and sd."""
    left = []
    for seed in range(40):
        x = 3 + 2 * np.random.default_rng(seed).normal(size=(40, 16, 16))
        standard = fit_standardiser(x, "shrunk")
        assert not standard.two_sided
        left.append((standard.mean.std() / x.mean(axis=0).std(), standard.sd.std() / x.std(axis=0).std()))
        assert standard.mean.mean() == pytest.approx(x.mean())
        assert standard.sd.mean() == pytest.approx(x.std(), rel=0.02)
    assert np.median(left, axis=0).max() < 0.1 and np.max(left) < 0.4
    still = np.random.default_rng(0).normal(size=(40, 1, 1)) + np.zeros((40, 6, 6))  # positions all alike
    standard = fit_standardiser(still, "shrunk")
    assert np.allclose(standard.mean, still.mean()) and np.allclose(standard.sd, still.std())


@pytest.mark.parametrize("n", [1, 2, 4])
def test_of_fewer_than_five_images_shrunk_is_image(n):
    x = maps(n=n, between=100)
    shrunk, image = (fit_standardiser(x, how) for how in ("shrunk", "image"))
    assert np.array_equal(shrunk.mean, image.mean) and np.array_equal(shrunk.sd, image.sd) and not shrunk.two_sided
    five = fit_standardiser(maps(n=5, between=100), "shrunk")
    assert np.ptp(five.mean) > 50


def test_shrunk_statistics_of_two_positions_by_hand():
    """Means 10 and 20, variances 2 and 18 of five images: m = 15, v = 10.

    The means vary by 25, by chance by 10 / 4: a = 0.9. The variances vary by 64, by chance by 2 * 100 / 4 = 50:
    b = 14 / 64 = 0.21875.
    """
    steps = np.array([-2.0, -1, 0, 1, 2])
    x = np.stack([10 + steps, 20 + 3 * steps], axis=1)[:, None]
    standard = fit_standardiser(x, "shrunk")
    assert standard.mean.tolist() == [pytest.approx([10.5, 19.5])]
    assert (standard.sd**2).tolist() == [pytest.approx([10 - 0.21875 * 8, 10 + 0.21875 * 8])]
    assert standard(np.array([[[9.0, 25.5]]])).tolist() == [[pytest.approx([-1.5 / 8.25**0.5, 6 / 11.75**0.5])]]


@pytest.mark.parametrize("n, between", [(5, 0.0), (6, 0.5), (30, 0.2), (30, 3.0)])
def test_shrunk_statistics_against_loops(n, between):
    x = maps(n=n, g=3, between=between, seed=n)
    places = [[float(v) for v in x[:, i, j]] for i in range(3) for j in range(3)]
    means = [sum(p) / n for p in places]
    variances = [sum((v - m) ** 2 for v in p) / n for p, m in zip(places, means, strict=True)]
    m, v = sum(means) / 9, sum(variances) / 9
    found_m, found_v = sum((k - m) ** 2 for k in means) / 9, sum((k - v) ** 2 for k in variances) / 9
    a, b = max(0.0, 1 - v / (n - 1) / found_m), max(0.0, 1 - 2 * v * v / (n - 1) / found_v)
    standard = fit_standardiser(x, "shrunk")
    assert standard.mean.ravel().tolist() == pytest.approx([m + a * (k - m) for k in means])
    expected = [max(v + b * (k - v), LEAST_SD**2 * v) ** 0.5 for k in variances]
    assert standard.sd.ravel().tolist() == pytest.approx(expected)


def test_no_shrunk_sd_is_below_the_least():
    x = maps(between=100)
    x[:, 2, 3] = 50.0  # never varied
    standard = fit_standardiser(x, "shrunk")
    assert standard.sd.min() == standard.sd[2, 3] == pytest.approx(LEAST_SD * np.sqrt(x.var(axis=0).mean()))
    constant = fit_standardiser(np.ones((6, 2, 2)), "shrunk")
    assert constant(np.ones((1, 2, 2))).tolist() == [[[0, 0], [0, 0]]] and np.isfinite(constant.sd).all()


def test_a_share_beyond_chance_lies_between_nothing_and_all():
    cases = [(4, 1), (4, 0), (4, 4), (4, 9), (0, 0)]
    assert [share_beyond_chance(found, chance) for found, chance in cases] == [0.75, 1, 0, 0, 0]


def test_threshold_by_hand():
    """Gumbel: quantile q at -log(-log q), mean 0.5772, sd pi / sqrt 6. So g = 3.1367 at 99 %, against Gauss's 2.3263.

    Of 1, 2, ..., 8: mean 4.5, sd 2.4495, Student's quantile of 7 degrees of freedom 2.99795.
    """
    g = (-np.log(-np.log(0.99)) - np.euler_gamma) / (np.pi / 6**0.5)
    assert g == pytest.approx(3.1367, abs=1e-4)
    expected = 4.5 + g / 2.326348 * 2.997952 * 6**0.5 * (9 / 8) ** 0.5
    assert decision_threshold(np.arange(1.0, 9.0)) == pytest.approx(expected, rel=1e-5)
    assert decision_threshold(np.array([3.0])) == 3.0


@pytest.mark.parametrize("n, rate", [(6, 0.05), (8, 0.05), (60, 0.05), (60, 0.01), (200, 0.01)])
@pytest.mark.parametrize("law", [stats.norm, stats.laplace])
def test_the_threshold_of_maxima_keeps_its_rate(law, n, rate):
    """Image scores are the largest of 400 numbers, Gaussian or with longer tails; the rate of new ones is exact."""
    shares = np.random.default_rng(n).uniform(size=(2000, n)) ** (1 / 400)
    thresholds = np.array([decision_threshold(x, rate) for x in law.ppf(shares)])
    assert 0.5 * rate <= np.mean(1 - law.cdf(thresholds) ** 400) <= 1.5 * rate


@pytest.mark.parametrize("count, kept", [(10, 0), (20, 4), (28, 4), (209, 20), (727, 72)])
def test_a_tenth_is_kept_out_and_at_least_four(count, kept):
    indices = held_out(count)
    assert len(indices) == kept == len(set(indices))
    assert all(0 <= i < count for i in indices)
