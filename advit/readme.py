"""The results of README.md and of results/study/README.md, generated from the tables and records under ``results``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from advit.baselines import METHODS
from advit.files import write_text
from advit.profiles import PROFILES
from advit.speed import speed_block
from advit.stats import AGAINST, NEGLIGIBLE, SUPPORTED, UNDECIDED, UNTESTED, Estimate, verdict
from advit.tables import FULL_NAMES, MAIN_KEYS, Table


def between(name: str) -> re.Pattern[str]:
    """What lies between the markers of this name, the markers as groups."""
    return re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)


MARKERS, SPEED, TOLERANCE, STUDIES = (between(name) for name in ("results", "speed", "tolerance", "studies"))
COMPARED = (*MAIN_KEYS, "pixel_ap")
MARKS = {
    SUPPORTED: "yes", AGAINST: "no", NEGLIGIBLE: "no difference", UNDECIDED: "undecided", UNTESTED: "not tested"
}  # fmt: skip
CLAIMS = (
    "The paper's claims: estimate, 95 % interval, and over what. No difference: the interval lies within 0.02 of none;"
    " else yes: on the side of the claim; no: on the other side. Categories are units where there are"
    " several, their seeds averaged; else seeds, and the interval speaks of other seeds on the same images. Of twenty"
    " such intervals one excludes no effect by chance. AD (association discrepancy): how far what a patch attends to "
    "differs from a Gaussian around it. C1: AD is lower on defects. C2: minimax training widens that difference. C3: "
    "the density map localises better than the other maps. C4: noise on the features helps. C5: ADViT beats other "
    "methods. C6: more Gaussians help, then level off. Place removed: less the mean of defect-free test images at "
    "that place. Main: the model of the tables; ablation: a smaller one, in which one option changes"
)


def reproductions(results: Path) -> dict[str, Path]:
    """Name of the data -> folder of its reproduction: the embedded data, then every folder in ``results/real``."""
    real = sorted(p for p in (results / "real").glob("*") if (p / "runs.csv").exists())
    return {"embedded data": results / "quick", **{p.name: p for p in real}}


def results_block(results: Path) -> str:
    """Markdown of everything between the markers.

    Test: tests/test_readme.py
    """
    found = reproductions(results)
    main = pd.read_csv(found["embedded data"] / "tables" / "main.csv")
    parts = [
        f"ADViT on the embedded data (`make reproduce`; {small_print(found['embedded data'])}):",
        Table(main, "").markdown(),
        f"ADViT ({minutes(found['embedded data'], 'main')}), the public computation `vt_adl` after "
        f"{PROFILES['quick'].opponent.max_steps} steps ({minutes(found['embedded data'], 'vt_adl')}, on the embedded "
        "data), and floors: five classical methods without a network; "
        "means over categories and seeds of " + ", ".join(FULL_NAMES[k] for k in MAIN_KEYS) + ":",
        Table(methods_table(found), "").markdown(),
        "Real images: " + "; ".join(f"{name}: {small_print(path)}" for name, path in list(found.items())[1:]) + ".\n",
        better_floors(found),
        *(part for path in studies(results) if several_seeds(path) for part in study_parts(path)),
        decisions_block(results),
        CLAIMS + ":",
        Table(claims_table(found), "").markdown(),
    ]  # fmt: skip
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def heading(name: str, path: Path) -> str:
    """Name of a column: of the data, with a remark if an earlier version made it."""
    return f"{name} (earlier version)" if earlier(path) else name


def methods_table(found: dict[str, Path]) -> pd.DataFrame:
    """One row per method, one column per data set, with the three main metrics in a cell."""
    columns = {}
    for name, path in found.items():
        table = pd.read_csv(path / "tables" / "comparison.csv").set_index("method")
        cells = [" / ".join(f"{row[FULL_NAMES[k]]:.3f}" for k in MAIN_KEYS) for _, row in table.iterrows()]
        columns[heading(name, path)] = pd.Series(cells, index=table.index)
    return pd.DataFrame(columns).reset_index(names="method")


def better_floors(found: dict[str, Path]) -> str:
    """Where a floor has a higher value than ADViT, category by category, in a sentence."""
    where = []
    for path in found.values():
        mine = pd.read_csv(path / "tables" / "main.csv").set_index("category")
        floors = pd.read_csv(path / "tables" / "data_floors.csv")
        floors = floors[floors["category"].isin(mine.index.drop("mean"))]
        for metric in [FULL_NAMES[k] for k in COMPARED]:
            best = floors.loc[floors.groupby("category", sort=False)[metric].idxmax()]
            for _, row in best.iterrows():
                ours = mine.loc[row["category"], metric]
                if round(row[metric], 3) > round(ours, 3):
                    where.append(f"{row['category']}, {metric}: {row['method']} {row[metric]:.3f} against {ours:.3f}")
    return f"Where a floor is better than ADViT: {'; '.join(where) or 'nowhere'}."


def studies(results: Path) -> list[Path]:
    """Folders of what ``advit study --out`` wrote."""
    return [path.parent for path in sorted((results / "study").glob("*/runs.csv"))]


def provenance(folder: Path) -> dict[str, Any]:
    """How a study or a reproduction was made."""
    return json.loads((folder / "provenance.json").read_text(encoding="utf-8"))


def several_seeds(folder: Path) -> bool:
    """Whether a study has a spread over seeds to show."""
    return len(provenance(folder)["seeds"]) > 1


def studies_block(results: Path) -> str:
    """Markdown of all studies, for results/study/README.md. Test: tests/test_readme.py"""
    parts = [part.strip() for path in studies(results) for part in study_parts(path)]
    return "\n\n".join(parts) + "\n"


def study_parts(folder: Path) -> tuple[str, str]:
    """A sentence and a table of what ``advit study --out`` wrote: per category and variant, mean ± sd over seeds.

    The floors share one column: for each metric the best of them.
    """
    rows = pd.read_csv(folder / "runs.csv")
    made = provenance(folder)
    floors, mine = rows[rows["variant"].isin(METHODS)], rows[~rows["variant"].isin(METHODS)]
    cells: dict[str, list[str]] = {"category": list(dict.fromkeys(rows["category"]))}
    for name in dict.fromkeys(mine["variant"]):
        cells[name] = [spread_cell(part) for _, part in mine[mine["variant"] == name].groupby("category", sort=False)]
    if len(floors):
        best = floors.groupby("category", sort=False)[list(MAIN_KEYS)].max()
        cells["best floor, by each metric"] = [" / ".join(f"{v:.3f}" for v in best.loc[c]) for c in cells["category"]]
    first = mine[mine["variant"] == mine["variant"].iloc[0]]
    minutes = sorted(first["seconds"] / 60)
    times = f"{minutes[0]:.1f} to {minutes[-1]:.1f} minutes of training (first column) on {made['device']}"
    at = f" at {made['pasted_size']} px" if "pasted_size" in made else ""
    judged = f"defects pasted{at} on training images" if made["pasted"] else "test images"
    seeds = ", ".join(map(str, made["seeds"]))
    sentence = (
        f"Variants of `{first['variant'].iloc[0]}` on {judged} (`advit study`, results/study/{folder.name}; "
        f"commit {made['commit'][:7]}, seeds {seeds}, {times}): mean{' ± sd' * (len(made['seeds']) > 1)} of "
        + ", ".join(FULL_NAMES[k] for k in MAIN_KEYS) + ":"
    )
    return sentence, Table(pd.DataFrame(cells), "").markdown()


def decisions_block(results: Path) -> str:
    """How often the threshold is right, by the studies of several seeds that say so: a sentence and a table."""
    known = [path for path in studies(results) if several_seeds(path) and (path / "decisions.csv").exists()]
    made = [path for path in known if not provenance(path)["pasted"]]
    if not made:
        return ""
    tables = [pd.read_csv(path / "decisions.csv").drop_duplicates("category").assign(study=path.name) for path in made]
    rows = pd.concat(tables).drop_duplicates("category", keep="last")  # a preset may be in several studies
    sentence = (
        "Decisions of `" + rows["variant"].iloc[0] + "` on test images at its threshold, means over seeds "
        f"({', '.join(f'results/study/{name}' for name in rows['study'].unique())}):"
    )
    return f"{sentence}\n\n{Table(rows.drop(columns=['variant', 'study']), '').markdown()}"


def spread_cell(part: pd.DataFrame) -> str:
    """Mean ± sd over seeds of the three main metrics."""
    return " / ".join(
        f"{part[k].mean():.3f}" + (f" ± {part[k].std(ddof=1):.3f}" if len(part) > 1 else "") for k in MAIN_KEYS
    )


def claims_table(found: dict[str, Path]) -> pd.DataFrame:
    """One row per claim, one column per data set: verdict, and the estimate with its interval."""
    columns, index = {}, None
    for name, path in found.items():
        table = pd.read_csv(path / "tables" / "claims.csv")
        columns[heading(name, path)] = [claim_cell(row) for _, row in table.iterrows()]
        index = table[["claim", "model", "measured"]].copy() if index is None else index
    return index.assign(**columns)


def claim_cell(row: pd.Series) -> str:
    """One claim on one data set, judged by today's rule, whatever the version that made the table."""
    if pd.isna(row["value"]):
        return MARKS[UNTESTED]
    value, low, high = (row[k] for k in ("value", "low", "high"))
    if pd.isna(low):
        return f"{MARKS[UNTESTED]}: {value:.3f}"
    found = verdict(Estimate(value, low, high, n=0), 0.5 if row["claim"] == "C1" else 0.0)
    return f"{MARKS[found]}: {value:.3f} [{low:.3f}, {high:.3f}], {row['units']}"


def small_print(folder: Path) -> str:
    """Runs, minutes of a main run, and device of a reproduction, as its records say."""
    index, main = pd.read_csv(folder / "runs.csv"), records_of(folder, "main")
    devices = sorted({r["provenance"]["training"]["device"] for r in main})
    seeds = sorted({r["provenance"]["seed"] for r in main})
    which = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    times = f"{minutes(folder, 'main')} on {', '.join(devices)}"
    return f"{which}, {times}; {index['record'].nunique()} runs in all, most of them smaller ablations{earlier(folder)}"


def earlier(folder: Path) -> str:
    """A remark if a reproduction below ``results/real`` was made with other code than that of the embedded data."""
    made, latest = map(provenance, (folder, folder.parents[folder.parent.name == "real"] / "quick"))
    same = made["code_digest"] == latest["code_digest"]
    return "" if same else f", made by an earlier version of the preset (commit {made['commit'][:7]})"


def minutes(folder: Path, experiment: str) -> str:
    """Shortest and longest run of an experiment, training and evaluation, in words."""
    made = [r["provenance"] for r in records_of(folder, experiment)]
    times = [p["seconds"] + p["training"]["seconds"] for p in made]
    span = dict.fromkeys(f"{t / 60:.1f}" for t in (min(times), max(times)))
    return f"{' to '.join(span)} minutes a run"


def records_of(folder: Path, experiment: str) -> list[dict[str, Any]]:
    """The records of an experiment's runs."""
    index = pd.read_csv(folder / "runs.csv")
    return [record_of(folder, name) for name in index[index["experiment"] == experiment]["record"]]


def record_of(folder: Path, name: str) -> dict[str, Any]:
    """One run's record."""
    return json.loads((folder / "runs" / name).read_text(encoding="utf-8"))


def tolerance_block(results: Path) -> str:
    """What ``tests/tolerance.py --out results/tolerance.csv`` found: a sentence and a table.

    Test: tests/test_readme.py
    """
    rows = pd.read_csv(results / "tolerance.csv")
    made = json.loads((results / "tolerance.json").read_text(encoding="utf-8"))
    names = {"auto": "as in quick (bfloat16)", "avx2": ", AVX2 only", "sse4": ", SSE4 only", "own": ""}
    one = made["reference_threads"]
    same = (rows["threads"] == one) & (rows["instructions"] == "own")
    runs = "threads " + rows["threads"].astype(str) + rows["instructions"].map(names)
    runs = runs.mask(same, "the same again")
    cells = {"precision": rows["precision"].replace(names), "run": runs}
    for column, text in (("weights", "weights"), ("maps", "maps, in sd"), ("metrics", "metrics")):
        cells[text] = [f"{value:.1e}" if value else "0" for value in rows[column]]
    sentence = (
        f"Largest differences from a run with {one} thread ({made['options']}; "
        f"{made['cpu']}, PyTorch {made['versions']['torch']}; `tests/tolerance.py`):"
    )
    return f"{sentence}\n\n{Table(pd.DataFrame(cells), '').markdown().strip()}\n"


def update(readme: Path, results: Path) -> None:
    """Write the results, and what ``make bench`` and ``tests/tolerance.py`` found, between the markers of README, and
    all studies between those of ``results/study/README.md``.
    """
    text = readme.read_text(encoding="utf-8")
    blocks = (
        (MARKERS, results_block(results)), (SPEED, speed_block(results / "benchmarks.json")),
        (TOLERANCE, tolerance_block(results)),
    )  # fmt: skip
    for markers, block in blocks:
        text = markers.sub(lambda m, block=block: m[1] + block + m[2], text)
    write_text(readme, text)
    listing = results / "study" / "README.md"
    block = studies_block(results)
    write_text(listing, STUDIES.sub(lambda m: m[1] + block + m[2], listing.read_text(encoding="utf-8")))


if __name__ == "__main__":
    update(Path("README.md"), Path("results"))
