"""stats.py: effect sizes against loops and hand-worked cases, intervals against SciPy and against what they promise."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from advit.stats import (
    AGAINST,
    NEGLIGIBLE,
    SUPPORTED,
    UNDECIDED,
    UNTESTED,
    Estimate,
    differences,
    mean_interval,
    mean_superiority,
    over_units,
    paired,
    superiority,
    verdict,
    wilcoxon_p,
)  # fmt: skip


def images(rng, count, shift=0.0):
    return [rng.integers(0, 6, rng.integers(1, 7)).astype(float) + shift for _ in range(count)]


def test_superiority_is_the_share_of_pairs_counted_one_by_one():
    rng = np.random.default_rng(0)
    lower, higher = images(rng, 5), images(rng, 5)
    wins = [(x < y) + 0.5 * (x == y) for a in lower for x in a for b in higher for y in b]
    assert superiority(lower, higher).value == pytest.approx(np.mean(wins), abs=1e-12)


def test_superiority_agrees_with_mann_whitney():
    rng = np.random.default_rng(1)
    lower, higher = images(rng, 8), images(rng, 8, 0.7)
    a, b = np.concatenate(lower), np.concatenate(higher)
    u = scipy_stats.mannwhitneyu(b, a).statistic
    assert superiority(lower, higher).value == pytest.approx(u / (len(a) * len(b)), abs=1e-12)


def test_superiority_by_hand():
    found = superiority([np.array([1.0, 3.0])], [np.array([2.0, 3.0])])
    assert (found.value, found.low, found.n) == ((1 + 1 + 0 + 0.5) / 4, None, 1)
    assert superiority([], []) is None


def test_a_bootstrap_draw_is_the_statistic_of_the_drawn_images():
    rng = np.random.default_rng(2)
    lower, higher = images(rng, 4), images(rng, 4, 1.0)
    weights = np.random.default_rng(9).multinomial(4, np.full(4, 0.25), size=50)
    drawn = []
    for w in weights:
        chosen = np.repeat(np.arange(4), w)
        a, b = (np.concatenate([group[i] for i in chosen]) for group in (lower, higher))
        drawn.append(np.mean([(x < y) + 0.5 * (x == y) for x in a for y in b]))
    found = superiority(lower, higher, seed=9, resamples=50)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-12)


def test_mean_superiority_is_the_mean_over_runs_and_its_interval_is_narrower():
    rng = np.random.default_rng(3)
    groups = [(name, images(rng, 10), images(rng, 10, 0.5)) for name in "abcd"]
    found = mean_superiority(groups)
    single = [superiority(a, b) for _, a, b in groups]
    assert found.value == pytest.approx(np.mean([s.value for s in single]))
    assert found.high - found.low < min(s.high - s.low for s in single)
    assert (found.n, found.unit) == (40, "images") and mean_superiority([("a", [], [])]) is None


def test_seeds_of_one_category_draw_the_same_images():
    rng = np.random.default_rng(4)
    a, b = images(rng, 10), images(rng, 10, 0.5)
    once, thrice = mean_superiority([("x", a, b)]), mean_superiority([("x", a, b)] * 3)
    assert (once.low, once.high, once.n) == pytest.approx((thrice.low, thrice.high, thrice.n))


def test_categories_are_the_units_and_seeds_only_where_there_are_few():
    rows = [(c, s, v + 0.1 * s) for c, v in (("a", 0.0), ("b", 0.3), ("c", 0.6)) for s in (0, 1)]
    values = pd.DataFrame(rows, columns=["category", "seed", "v"]).set_index(["category", "seed"])["v"]
    found = over_units(values)
    assert (found.n, found.unit) == (3, "categories") and found.value == pytest.approx(0.35)
    assert found.high - found.value == pytest.approx(scipy_stats.t.ppf(0.975, 2) * 0.3 / np.sqrt(3))
    two = over_units(values.drop("c", level="category"))
    assert (two.n, two.unit, two.low) == (2, "categories", None) and two.value == pytest.approx(0.2)
    one = over_units(values.drop(["b", "c"], level="category"))
    assert (one.n, one.unit) == (2, "seeds") and over_units(values[:0]) is None


def test_mean_interval_is_the_t_interval():
    values = [0.1, 0.4, -0.2, 0.3]
    expected = scipy_stats.t.interval(0.95, 3, np.mean(values), scipy_stats.sem(values))
    found = mean_interval([*values, np.nan])
    assert (found.low, found.high) == pytest.approx(expected) and found.n == 4
    assert found.p == pytest.approx(scipy_stats.ttest_1samp(values, 0).pvalue)


def test_too_few_values_have_no_interval_and_equal_ones_a_point():
    assert mean_interval([]) is None and mean_interval([np.nan]) is None
    assert mean_interval([0.1, 0.3]) == Estimate(pytest.approx(0.2), None, None, 2)
    same = mean_interval([0.0, 0.0, 0.0])
    assert (same.low, same.high, same.p) == (0, 0, 1)


def test_pairs_are_matched_by_category_and_seed_whatever_their_order():
    rows = [("a", "x", 0, 0.5), ("b", "x", 1, 0.1), ("a", "x", 1, 0.4), ("b", "x", 0, 0.3), ("a", "y", 0, 0.9)]
    table = pd.DataFrame(rows, columns=["variant", "category", "seed", "m"])
    assert differences(table, "m", "a", "b").to_dict() == pytest.approx({("x", 0): 0.2, ("x", 1): 0.3})
    assert paired(table, "m", "a", "b").value == pytest.approx(0.25)
    assert paired(table, "m", "a", "nobody") is None


@pytest.mark.parametrize(
    "low, high, expected",
    [(0.1, 0.3, SUPPORTED), (-0.3, -0.1, AGAINST), (-0.1, 0.2, UNDECIDED), (-0.01, 0.02, NEGLIGIBLE),
     (0.0001, 0.0003, NEGLIGIBLE), (-0.019, -0.001, NEGLIGIBLE), (0.001, 0.03, SUPPORTED), (-0.03, -0.001, AGAINST),
     (None, None, UNTESTED)],
)
def test_verdict_follows_from_the_interval(low, high, expected):
    assert verdict(Estimate(0.1, low, high, 5)) == expected
    assert verdict(None) == UNTESTED
    if low is not None:
        assert verdict(Estimate(0.6, low + 0.5, high + 0.5, 5), null=0.5) == expected


def test_text_and_wilcoxon():
    assert Estimate(0.1234, 0.1, 0.2, 5).text() == "0.123 [0.100, 0.200]"
    assert Estimate(0.1234, None, None, 1).text(2, sign=True) == "+0.12"
    x = [0.1, 0.2, -0.05, 0.3, 0.4, 0.15]
    assert wilcoxon_p(x) == pytest.approx(scipy_stats.wilcoxon(x).pvalue)
    assert wilcoxon_p(x[:4]) is None and wilcoxon_p([0.0] * 6) is None
