"""The paper's claims C1 to C6 as estimates with intervals and a verdict each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from advit.analysis import patch_groups
from advit.map_comparison import kinds_table
from advit.stats import Estimate, mean_superiority, over_units, paired, superiority, verdict
from advit.study import Run, Runs, Study
from advit.tables import FULL_NAMES, MAIN_KEYS

NOISE, NO_NOISE = "sd 0.2", "sd 0"
MAIN, ABLATION = "main", "ablation"


@dataclass(frozen=True)
class Claim:
    """One claim: its number, a short name, what the paper says, which model, what was measured, the estimate.

    An estimate above ``null`` speaks for the claim. ``model``: "main" is the model of the result tables, "ablation" the
    one in which one option is changed at a time (:class:`advit.profiles.Profile`).
    """

    number: str
    short: str
    says: str
    model: str
    measured: str
    estimate: Estimate | None
    null: float = 0.0

    @property
    def verdict(self) -> str:
        """Supported, not supported, undecided, or not tested, by the 95 % interval."""
        return verdict(self.estimate, self.null)

    def line(self) -> str:
        """The claim in one printed line."""
        found = "no estimate" if self.estimate is None else self.estimate.text()
        return f"{self.number} {self.short}: {found}, {self.verdict}"


def discrepancy_groups(run: Run, place_removed: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A run's discrepancy on defect and on normal patches, one array per anomalous image; empty without masks.

    ``place_removed``: less the mean over defect-free test images at the same place. Corners differ from the middle
    whatever they hold, and defects lie at some places more often than at others. Test: tests/test_claims.py
    """
    patches = run.patches()
    if not patches:
        return [], []
    values = patches["discrepancy"].astype(np.float64)
    good = ~patches["is_anomalous"]
    if place_removed and good.any():
        values = values - values[good].mean(axis=0)
    return patch_groups({**patches, "discrepancy": values}, "discrepancy")


def associations_claims(runs: Runs) -> Iterator[Claim]:
    """C1: is the discrepancy lower on defect patches? P(AD_defect < AD_normal), mean over runs.

    Test: tests/test_claims.py
    """
    for removed, name in ((False, "P, discrepancy lower on defects"), (True, "P, the same, place removed")):
        groups = [(run.category, *discrepancy_groups(run, removed)) for run in runs]
        yield Claim(
            "C1", name, "abnormal patches associate with their neighbours, normal ones with the whole image", MAIN,
            f"P(AD of a defect patch < AD of a normal patch){', place removed' * removed}; 0.5: no difference",
            mean_superiority(groups), 0.5,
        )  # fmt: skip


def gap_table(runs: Runs) -> pd.DataFrame:
    """Per run how far the discrepancy separates defect from normal patches.

    Columns variant, category, seed, ``separation`` = P(AD_defect < AD_normal), ``separation, place removed``, ``gap`` =
    mean AD of normal minus of defect patches in nats, ``ad_normal`` in nats. Runs without masks are left out.
    Test: tests/test_claims.py
    """
    rows = []
    for run in runs:
        defect, normal = discrepancy_groups(run, False)
        if defect:
            low, high = np.concatenate(defect).mean(), np.concatenate(normal).mean()
            values = [superiority(*discrepancy_groups(run, removed)).value for removed in (False, True)]
            rows.append([run.variant, run.category, run.seed, *values, float(high - low), float(high)])
    columns = ["variant", "category", "seed", "separation", "separation, place removed", "gap", "ad_normal"]
    return pd.DataFrame(rows, columns=columns)


def minimax_claims(runs: Runs) -> Iterator[Claim]:
    """C2: does minimax widen the gap, against no discrepancy term and against the maximise phase alone?

    For every weight lambda that was trained; the first is that of the ablation's model and of "maximise only".
    """
    table = gap_table(runs)
    names = [v for v in runs.variants() if v.startswith("minimax")]
    for name in names:
        for other in ("none", "maximise only") if name == names[0] else ("none",):
            spoken = name.replace("lambda ", "λ = ")
            for column in ("separation", "separation, place removed"):
                removed = column.removeprefix("separation")
                yield Claim(
                    "C2", f"P, {spoken} versus {other}{removed}",
                    f"minimax widens that gap (against: {other})", ABLATION,
                    f"difference of P(AD_defect < AD_normal){removed}, {name} minus {other}",
                    paired(table, column, name, other),
                )  # fmt: skip


def localization_claims(runs: Runs, model: str) -> Iterator[Claim]:
    """C3: does the mixture density's map localise better than the reconstruction error's and the discrepancy's?"""
    table = kinds_table(runs)
    for other, name in (("reconstruction", "reconstruction error"), ("discrepancy", "discrepancy")):
        yield Claim(
            "C3", f"AU-PRO, density versus {name}, {model}",
            f"the mixture density network localises (against: {name})", model,
            f"{FULL_NAMES['aupro_0.3']}, density map minus {name} map", paired(table, "aupro_0.3", "density", other),
        )  # fmt: skip


def noise_claims(runs: Runs) -> Iterator[Claim]:
    """C4: do results with noise on the encoded features exceed those without?"""
    for key in ("aupro_0.3", "pixel_auroc"):
        yield Claim(
            "C4", f"noise: {FULL_NAMES[key]}", "with added noise, PRO significantly surpasses that without", ABLATION,
            f"{FULL_NAMES[key]}, noise sd 0.2 minus none", paired(runs.table, key, NOISE, NO_NOISE),
        )  # fmt: skip


def best_floor(floors: pd.DataFrame, key: str) -> pd.Series:
    """The best floor of each category by one metric: an opponent chosen with the test labels, so a hard one."""
    return floors.groupby("category")[key].max()


def opponent_claims(main: Runs, public: Runs, floors: pd.DataFrame) -> Iterator[Claim]:
    """C5: is ADViT better than the public computation, and than the best classical floor of each category?"""
    table = pd.concat([main.table, public.table])
    steps = sorted({int(run.log()["step"].iloc[-1]) for run in public})
    trained = f"vt_adl after {steps[0]}{f' to {steps[-1]}' * (len(steps) > 1)} steps"
    for key in MAIN_KEYS:
        yield Claim(
            "C5", f"{FULL_NAMES[key]} versus {trained}", "better than the methods it is compared with (vt_adl)", MAIN,
            f"{FULL_NAMES[key]}, ADViT minus {trained}", paired(table, key, "advit", "vt_adl"),
        )  # fmt: skip
    for key in MAIN_KEYS:
        gaps = main.table.set_index(["category", "seed"])[key]
        gaps = gaps - gaps.index.get_level_values("category").map(best_floor(floors, key))
        yield Claim(
            "C5", f"{FULL_NAMES[key]} versus the best floor",
            "better than the methods it is compared with (classical floors)", MAIN,
            f"{FULL_NAMES[key]}, ADViT minus the best floor of the category", over_units(gaps),
        )  # fmt: skip


def gaussians_claims(runs: Runs) -> Iterator[Claim]:
    """C6: do more Gaussians help, and does it level off: is the first step larger than the last?

    Where more Gaussians do not help, there is no gain that could level off, and the second part is not tested.
    """
    names = runs.variants()
    first, middle, last = names[0], names[len(names) // 2], names[-1]
    key, table = "aupro_0.3", runs.table
    gain = paired(table, key, last, first)
    yield Claim(
        "C6", f"AU-PRO, {last} versus {first}", "more Gaussians help (the paper: 10 to 150)", ABLATION,
        f"{FULL_NAMES[key]}, {last} minus {first}", gain,
    )  # fmt: skip
    if len(names) < 3:
        return
    wide = table.pivot(index=["category", "seed"], columns="variant", values=key)
    bend = (wide[middle] - wide[first]) - (wide[last] - wide[middle])
    helps = gain is not None and gain.low is not None and gain.low > 0
    yield Claim(
        "C6", "then it levels off", "then it levels off", ABLATION,
        f"gain in {FULL_NAMES[key]} from {first} to {middle} minus that from {middle} to {last}",
        over_units(bend) if helps else None,
    )  # fmt: skip


def all_claims(study: Study) -> list[Claim]:
    """Every claim on the study's data. Trains what is missing."""
    main = study.run("main")
    ablation = study.run("noise").only(variant=NOISE)
    return [
        *associations_claims(main),
        *minimax_claims(study.run("minimax")),
        *localization_claims(main, MAIN),
        *localization_claims(ablation, ABLATION),
        *noise_claims(study.run("noise")),
        *opponent_claims(main, study.run("vt_adl"), study.floors()),
        *gaussians_claims(study.run("gaussians")),
    ]


def claims_frame(claims: list[Claim]) -> pd.DataFrame:
    """Claims as a table: figure, interval, units, verdict."""
    rows = []
    for c in claims:
        e = c.estimate
        numbers = [np.nan, np.nan, np.nan, "-"] if e is None else [
            e.value, np.nan if e.low is None else e.low, np.nan if e.high is None else e.high, f"{e.n} {e.unit}"
        ]  # fmt: skip
        rows.append([c.number, c.says, c.model, c.measured, *numbers, c.verdict])
    columns = ["claim", "the paper says", "model", "measured", "value", "low", "high", "units", "verdict"]
    return pd.DataFrame(rows, columns=columns)
