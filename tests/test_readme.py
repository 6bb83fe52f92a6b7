"""README.md: its numbers are those of the records, its links exist, its commands parse."""

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from advit.cli import build_parser
from advit.readme import (
    MARKERS,
    SPEED,
    STUDIES,
    TOLERANCE,
    better_floors,
    claim_cell,
    earlier,
    results_block,
    studies_block,
    study_parts,
    tolerance_block,
)  # fmt: skip
from advit.speed import speed_block

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_results_are_those_of_the_records():
    found = MARKERS.search(README)
    assert found[0] == found[1] + results_block(ROOT / "results") + found[2], "run 'make readme'"


def test_speed_is_that_of_the_benchmarks():
    found = SPEED.search(README)
    assert found[0] == found[1] + speed_block(ROOT / "results" / "benchmarks.json") + found[2], "run 'make readme'"


def test_tolerance_is_that_of_the_table():
    found = TOLERANCE.search(README)
    assert found[0] == found[1] + tolerance_block(ROOT / "results") + found[2], "run 'make readme'"


def test_studies_are_those_of_their_tables():
    found = STUDIES.search((ROOT / "results/study/README.md").read_text(encoding="utf-8"))
    assert found[0] == found[1] + studies_block(ROOT / "results") + found[2], "run 'make readme'"


def test_floors_that_are_better_are_named(tmp_path):
    names = ("image-level AUROC", "pixel-level AUROC", "AU-PRO (FPR ≤ 0.3)", "pixel-level AP")
    (tmp_path / "tables").mkdir()
    main = pd.DataFrame([("nut", 0.9, 0.8, 0.7, 0.6), ("mean", 0.9, 0.8, 0.7, 0.6)], columns=["category", *names])
    main.to_csv(tmp_path / "tables/main.csv", index=False)
    floors = [("PCA", "nut", 0.95, 0.8004, 0.1, 0.1), ("DoG", "nut", 0.93, 0.2, 0.3, 0.61)]
    table = pd.DataFrame(floors, columns=["method", "category", *names])
    table.to_csv(tmp_path / "tables/data_floors.csv", index=False)
    assert better_floors({"data": tmp_path}) == (
        "Where a floor is better than ADViT: nut, image-level AUROC: PCA 0.950 against 0.900; "
        "nut, pixel-level AP: DoG 0.610 against 0.600."
    )


@pytest.mark.parametrize(
    "claim, value, low, high, cell",
    [("C4", 0.002, 0.001, 0.003, "no difference: 0.002 [0.001, 0.003], 5 seeds"),
     ("C1", 0.6, 0.55, 0.65, "yes: 0.600 [0.550, 0.650], 5 seeds"),
     ("C1", 0.4, 0.35, 0.45, "no: 0.400 [0.350, 0.450], 5 seeds"),
     ("C5", 0.3, None, None, "not tested: 0.300"), ("C6", None, None, None, "not tested")],
)  # fmt: skip
def test_a_claim_is_judged_by_todays_rule(claim, value, low, high, cell):
    row = pd.Series({"claim": claim, "value": value, "low": low, "high": high, "units": "5 seeds", "verdict": "old"})
    assert claim_cell(row) == cell


def test_a_study_shows_spread_over_seeds_and_the_best_floor_of_each_metric(tmp_path):
    keys = ("image_auroc", "pixel_auroc", "aupro_0.3")
    rows = [("quick", 0, 0.9, 0.8, 0.7, 60), ("quick", 1, 0.7, 0.8, 0.5, 120), ("PCA", 0, 0.6, 0.9, 0.1, None),
            ("DoG", 0, 0.65, 0.2, 0.3, None)]  # fmt: skip
    table = pd.DataFrame([dict(zip(("variant", "seed", *keys, "seconds"), row, strict=True)) for row in rows])
    table.assign(category="cable").to_csv(tmp_path / "runs.csv", index=False)
    made = {"device": "cpu (x86_64, 1 threads)", "pasted": True, "seeds": [0, 1], "commit": "0123456789"}
    (tmp_path / "provenance.json").write_text(json.dumps(made), encoding="utf-8")
    sentence, text = study_parts(tmp_path)
    assert "defects pasted on training images" in sentence and "seeds 0, 1, 1.0 to 2.0 minutes of training" in sentence
    assert text.splitlines()[-1] == (
        "| cable | 0.800 ± 0.141 / 0.800 ± 0.000 / 0.600 ± 0.141 | 0.650 / 0.900 / 0.300 |"
    )  # fmt: skip


def test_every_linked_and_named_file_exists():
    names = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"`(advit/\w+\.py)`", README)
    names += [f"tests/{name}.py" for name in re.findall(r"`(test_\w+)`", README)]
    assert len(names) > 15
    assert [n for n in names if not (ROOT / n).exists()] == []


def test_every_command_parses():
    commands = re.findall(r"^\.venv/bin/advit (.+?)(?:  +#.*)?$", README, flags=re.MULTILINE)
    assert len(commands) > 5
    for command in commands:
        arguments = shlex.split(command)
        if "--help" in arguments:
            with pytest.raises(SystemExit):
                build_parser().parse_args(arguments)
        else:
            build_parser().parse_args(arguments)


def test_every_test_that_a_docstring_names_exists():
    named = {
        (path.name, test)
        for path in (ROOT / "advit").glob("*.py")
        for test in re.findall(r"(tests/\w+\.py)", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert sorted(n for n in named if not (ROOT / n[1]).exists()) == []


def test_a_reproduction_by_other_code_says_so(tmp_path):
    for name, digest in (("quick", "a"), ("real/new", "a"), ("real/old", "b")):
        (tmp_path / name).mkdir(parents=True)
        made = {"code_digest": digest, "commit": "0123456789"}
        (tmp_path / name / "provenance.json").write_text(json.dumps(made), encoding="utf-8")
    assert earlier(tmp_path / "quick") == earlier(tmp_path / "real" / "new") == ""
    assert earlier(tmp_path / "real" / "old") == ", made by an earlier version of the preset (commit 0123456)"
