"""The paper's claims C1 to C6 as estimates with intervals and a verdict each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from advit.analysis import patch_groups
from advit.stats import Estimate, mean_interval, mean_superiority, paired, superiority, verdict
from advit.study import Runs, Study
from advit.tables import FULL_NAMES

NOISE, NO_NOISE = "sd 0.2", "sd 0"


@dataclass(frozen=True)
class Claim:
    """One claim: its number, a short name, what the paper says, what was measured, the estimate.

    An estimate above ``null`` speaks for the claim.
    """

    number: str
    short: str
    says: str
    measured: str
    estimate: Estimate | None
    null: float = 0.0

    @property
    def verdict(self) -> str:
        """Supported, not supported, or not tested, by the 95 % interval."""
        return verdict(self.estimate, self.null)


def associations_claim(runs: Runs) -> Claim:
    """C1: is the discrepancy lower on defect patches? P(AD_defect < AD_normal), mean over runs.

    Test: tests/test_claims.py
    """
    groups = [patch_groups(run.patches(), "discrepancy") for run in runs if run.patches()]
    return Claim(
        "C1", "discrepancy lower on defects",
        "abnormal patches associate with their neighbours, normal ones with the whole image",
        "P(AD of a defect patch < AD of a normal patch); 0.5: no difference", mean_superiority(groups), 0.5,
    )  # fmt: skip


def gap_table(runs: Runs) -> pd.DataFrame:
    """Per run how far the discrepancy separates defect from normal patches.

    Columns variant, category, seed, ``separation`` = P(AD_defect < AD_normal), ``gap`` = mean AD of normal minus of
    defect patches in nats, ``ad_normal`` in nats. Runs without masks are left out. Test: tests/test_claims.py
    """
    rows = []
    for run in runs:
        patches = run.patches()
        defect, normal = patch_groups(patches, "discrepancy") if patches else ([], [])
        if defect:
            low, high = np.concatenate(defect).mean(), np.concatenate(normal).mean()
            value = superiority(defect, normal).value
            rows.append([run.variant, run.category, run.seed, value, float(high - low), float(high)])
    return pd.DataFrame(rows, columns=["variant", "category", "seed", "separation", "gap", "ad_normal"])


def minimax_claims(runs: Runs) -> Iterator[Claim]:
    """C2: does minimax widen the gap, against no discrepancy term and against the maximise phase alone?"""
    table = gap_table(runs)
    for other in ("none", "maximise only"):
        yield Claim(
            "C2", f"minimax against {other}", f"minimax widens that gap (against: {other})",
            f"difference of P(AD_defect < AD_normal), minimax minus {other}",
            paired(table, "separation", "minimax", other),
        )  # fmt: skip


def map_table(runs: Runs) -> pd.DataFrame:
    """Metrics of every kind of map of every run, with ``variant`` the kind of map."""
    keys = ("image_auroc", "pixel_auroc", "aupro_0.3")
    rows = [
        {"variant": kind, "category": run.category, "seed": run.seed, **{k: found.get(k) for k in keys}}
        for run in runs
        for kind, found in run.record.get("maps", {}).items()
    ]
    table = pd.DataFrame(rows, columns=["variant", "category", "seed", *keys])
    return table.astype({k: float for k in keys})


def localization_claims(runs: Runs) -> Iterator[Claim]:
    """C3: does the mixture density's map localise better than the reconstruction error's and the discrepancy's?"""
    table = map_table(runs)
    for other, name in (("reconstruction", "reconstruction error"), ("discrepancy", "discrepancy")):
        yield Claim(
            "C3", f"density map against {name}", f"the mixture density network localises (against: {name})",
            f"{FULL_NAMES['aupro_0.3']}, density map minus {name} map", paired(table, "aupro_0.3", "density", other),
        )  # fmt: skip


def noise_claims(runs: Runs) -> Iterator[Claim]:
    """C4: do results with noise on the encoded features exceed those without?"""
    for key in ("aupro_0.3", "pixel_auroc"):
        yield Claim(
            "C4", f"noise: {FULL_NAMES[key]}", "with added noise, PRO significantly surpasses that without",
            f"{FULL_NAMES[key]}, noise sd 0.2 minus none", paired(runs.table, key, NOISE, NO_NOISE),
        )  # fmt: skip


def best_floor(floors: pd.DataFrame, key: str) -> pd.Series:
    """The best floor of each category by one metric: an opponent chosen with the test labels, so a hard one."""
    return floors.groupby("category")[key].max()


def opponent_claims(main: Runs, public: Runs, floors: pd.DataFrame) -> Iterator[Claim]:
    """C5: is ADViT better than the public computation, and than the best classical floor of each category?"""
    table = pd.concat([main.table, public.table])
    for key in ("image_auroc", "pixel_auroc", "aupro_0.3"):
        yield Claim(
            "C5", f"against vt_adl: {FULL_NAMES[key]}",
            "better than the methods it is compared with (vt_adl)", f"{FULL_NAMES[key]}, ADViT minus vt_adl",
            paired(table, key, "advit", "vt_adl"),
        )  # fmt: skip
    for key in ("image_auroc", "pixel_auroc", "aupro_0.3"):
        gaps = main.table[key] - main.table["category"].map(best_floor(floors, key))
        yield Claim(
            "C5", f"against the best floor: {FULL_NAMES[key]}",
            "better than the methods it is compared with (classical floors)",
            f"{FULL_NAMES[key]}, ADViT minus the best floor of the category", mean_interval(gaps.to_list()),
        )  # fmt: skip


def gaussians_claims(runs: Runs) -> Iterator[Claim]:
    """C6: do more Gaussians help, and does it level off: is the first step larger than the last?"""
    names = runs.variants()
    first, middle, last = names[0], names[len(names) // 2], names[-1]
    key, table = "aupro_0.3", runs.table
    yield Claim(
        "C6", f"{last} against {first}", "more Gaussians help", f"{FULL_NAMES[key]}, {last} minus {first}",
        paired(table, key, last, first),
    )  # fmt: skip
    if len(names) < 3:
        return
    wide = table.pivot(index=["category", "seed"], columns="variant", values=key)
    bend = (wide[middle] - wide[first]) - (wide[last] - wide[middle])
    yield Claim(
        "C6", "then it levels off", "then it levels off",
        f"gain in {FULL_NAMES[key]} from {first} to {middle} minus that from {middle} to {last}",
        mean_interval(bend.to_list()),
    )  # fmt: skip


def all_claims(study: Study) -> list[Claim]:
    """Every claim on the study's data. Trains what is missing."""
    main = study.run("main")
    return [
        associations_claim(main),
        *minimax_claims(study.run("minimax")),
        *localization_claims(study.run("conditioning").only(variant="others")),
        *noise_claims(study.run("noise")),
        *opponent_claims(main, study.run("vt_adl"), study.floors()),
        *gaussians_claims(study.run("gaussians")),
    ]


def claims_frame(claims: list[Claim]) -> pd.DataFrame:
    """Claims as a table: figure, interval, number of units, verdict."""
    rows = []
    for c in claims:
        e = c.estimate
        numbers = [np.nan, np.nan, np.nan, 0] if e is None else [
            e.value, np.nan if e.low is None else e.low, np.nan if e.high is None else e.high, e.n
        ]  # fmt: skip
        rows.append([c.number, c.says, c.measured, *numbers, c.verdict])
    return pd.DataFrame(rows, columns=["claim", "the paper says", "measured", "value", "low", "high", "n", "verdict"])
