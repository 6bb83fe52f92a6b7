"""claims.py: each claim is judged by the runs it names, in the direction it claims."""

import numpy as np
import pandas as pd
import pytest

from advit.claims import (
    associations_claims,
    claims_frame,
    gap_table,
    gaussians_claims,
    localization_claims,
    minimax_claims,
    noise_claims,
    opponent_claims,
)
from advit.stats import AGAINST, SUPPORTED, UNTESTED
from advit.study import Run, Runs


def fake(variant, category="a", seed=0, gap=0.0, place=0.0, **metrics):
    """A run whose discrepancy is lower by ``gap`` on the one defect patch of each of its four anomalous images."""
    record = {"aupro_0.3": 0.5, "pixel_auroc": 0.5, "image_auroc": 0.5, **metrics}
    rng = np.random.default_rng(seed)
    share = np.zeros((6, 3, 3))
    share[:4, 1, 1] = 1
    scores = rng.normal(5, 1, (6, 3, 3)) - gap * share + place * np.eye(3)[1][:, None] * np.eye(3)[1]

    class Fake(Run):
        def patches(self):
            return {"discrepancy": scores, "defect_share": share, "is_anomalous": np.arange(6) < 4}

        def log(self):
            return pd.DataFrame({"step": [7, 28]})

    return Fake(variant, category, seed, None, record)


def runs(*found):
    return Runs(tuple(found))


@pytest.mark.parametrize("gap, expected", [(5, SUPPORTED), (-5, AGAINST)])
def test_c1_is_supported_where_the_discrepancy_is_lower_on_defects(gap, expected):
    for claim in associations_claims(runs(fake("advit", gap=gap), fake("advit", "b", gap=gap))):
        assert claim.verdict == expected and (claim.estimate.n, claim.estimate.unit) == (8, "images")
    assert [c.verdict for c in associations_claims(runs())] == [UNTESTED] * 2


def test_a_place_that_is_low_in_every_image_is_no_sign_of_a_defect():
    raw, placed = associations_claims(runs(fake("advit", place=-50), fake("advit", seed=1, place=-50)))
    assert raw.verdict == SUPPORTED and raw.estimate.value == 1 and raw.estimate.n == 4
    assert placed.verdict != SUPPORTED and abs(placed.estimate.value - 0.5) < 0.3


def test_c2_compares_the_separation_of_pairs():
    seeds = range(4)
    gaps = {"minimax": 6, "none": 0, "maximise only": 6}
    found = runs(*(fake(v, seed=s, gap=g) for v, g in gaps.items() for s in seeds))
    claims = {c.short: c for c in minimax_claims(found)}
    assert claims["P, minimax versus none"].verdict == SUPPORTED
    assert claims["P, minimax versus none, place removed"].verdict == SUPPORTED
    assert claims["P, minimax versus maximise only"].estimate.value == pytest.approx(0, abs=0.02)
    table = gap_table(found)
    assert len(table) == 12 and table[table["variant"] == "minimax"]["gap"].min() > 4


def test_c3_compares_maps_of_the_same_runs():
    maps = {"density": {"aupro_0.3": 0.8}, "reconstruction": {"aupro_0.3": 0.6}, "discrepancy": {"aupro_0.3": 0.9}}
    found = runs(*(fake("others", seed=s, maps=maps) for s in range(3)))
    reconstruction, discrepancy = localization_claims(found, "main")
    assert reconstruction.estimate.value == pytest.approx(0.2) and reconstruction.verdict == SUPPORTED
    assert discrepancy.verdict == AGAINST


def test_c4_and_c6_take_the_right_sign():
    noise = [fake(v, seed=s, **{"aupro_0.3": x, "pixel_auroc": 1 - x})
             for v, x in (("sd 0", 0.4), ("sd 0.2", 0.6), ("sd 0.5", 0.1)) for s in range(3)]  # fmt: skip
    assert [c.verdict for c in noise_claims(runs(*noise))] == [SUPPORTED, AGAINST]
    values = {"K=1": 0.2, "K=5": 0.6, "K=15": 0.7}
    found = [fake(k, seed=s, **{"aupro_0.3": v}) for k, v in values.items() for s in range(3)]
    more, level = gaussians_claims(runs(*found))
    assert more.estimate.value == pytest.approx(0.5) and level.estimate.value == pytest.approx(0.4 - 0.1)
    assert level.verdict == SUPPORTED
    worse = [fake(k, seed=s, **{"aupro_0.3": -v}) for k, v in values.items() for s in range(3)]
    assert [c.verdict for c in gaussians_claims(runs(*worse))] == [AGAINST, UNTESTED]


def test_c5_takes_the_best_floor_of_each_category():
    main = runs(*(fake("advit", c, **{"aupro_0.3": 0.7}) for c in "abc"))
    public = runs(*(fake("vt_adl", c, **{"aupro_0.3": 0.2}) for c in "abc"))
    rows = [(v, c, 0, x, x, x) for v, x in (("z", 0.3), ("g", 0.8)) for c in "abc"]
    floors = pd.DataFrame(rows, columns=["variant", "category", "seed", "image_auroc", "pixel_auroc", "aupro_0.3"])
    claims = {c.short: c for c in opponent_claims(main, public, floors)}
    assert claims["AU-PRO (FPR ≤ 0.3) versus vt_adl after 28 steps"].estimate.value == pytest.approx(0.5)
    assert claims["AU-PRO (FPR ≤ 0.3) versus the best floor"].estimate.value == pytest.approx(-0.1)
    frame = claims_frame(list(claims.values()))
    assert list(frame["units"]) == ["3 categories"] * 6 and frame["verdict"].iloc[-1] == AGAINST
    assert "vt_adl after 28 steps" in frame["measured"].iloc[0]
