"""The main job: train what is missing, run every notebook, write tables, figures and a report."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import torch

from advit.errors import ConfigError, nearest
from advit.files import atomic, write_json, write_text
from advit.notebooks import execute, notebook_paths
from advit.published import FOLDER
from advit.remains import sweep
from advit.report import build_report
from advit.results import code_version, device_name, versions
from advit.runs import SHEET
from advit.store import code_digest
from advit.study import DEVICE, FIGURES, RESULTS, STORE, Study, open_study
from advit.tables import FULL_NAMES, METRIC_KEYS, Table

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
KERNEL = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONHASHSEED": "0", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


@dataclass(frozen=True)
class Job:
    """One reproduction: a study's parameters and the folders it writes to."""

    profile: str
    data_root: Path | None
    categories: tuple[str, ...]
    seeds: tuple[int, ...]
    name: str
    out: Path
    store: Path

    @property
    def results(self) -> Path:
        return self.out / "results" / self.name

    @property
    def figures(self) -> Path:
        return self.out / "figures" / self.name

    def parameters(self) -> dict[str, Any]:
        """What every notebook's parameters cell gets."""
        root = str(self.data_root.resolve()) if self.data_root else ""
        return {
            "profile": self.profile, "data_root": root, "categories": list(self.categories), "seeds": list(self.seeds)
        }  # fmt: skip

    def environment(self, device: torch.device) -> dict[str, str]:
        """Variables that tell the study in a kernel where to read and write, and what to compute on."""
        folders = {STORE: self.store, RESULTS: self.results, FIGURES: self.figures}
        return {**KERNEL, DEVICE: str(device), **{k: str(v.resolve()) for k, v in folders.items()}}


def make_job(
    profile: str, data_root: Path | None, categories: Sequence[str], seeds: Sequence[int], name: str, out: Path
) -> Job:
    """A job with the default name: the profile, and whatever of data, categories and seeds is not the default.

    Raises:
        ConfigError: if ``name`` would lead out of ``results``.
    """
    if name and (Path(name).is_absolute() or ".." in Path(name).parts):
        raise ConfigError(f"--name {name}: must stay below results/, for instance real/bottle.")
    parts = [profile, *([data_root.resolve().name] if data_root else []), *categories, *(f"seed{s}" for s in seeds)]
    default = "-".join(parts)
    store = Path(os.environ.get(STORE) or out / "runs" / "store")
    return Job(profile, data_root, tuple(categories), tuple(seeds), name or default, out, store)


def reproduce(job: Job, device: torch.device, only: Sequence[str] = (), progress: bool = True) -> Iterator[str]:
    """Run everything of a job that is not done yet; yields lines to print.

    1. every run of every experiment is trained, or found in the store; 2. every notebook is executed, unless its
    source, the package, the parameters, the data and the files it wrote are as they were; 3. records, provenance and
    report are written. A notebook that fails raises NotebookError, after what came before it has been kept.

    Args:
        only: numbers or names of notebooks to run instead of all, for instance ``["03"]``.

    Test: tests/test_reproduce.py
    """
    start = time.monotonic()
    chosen = choose_notebooks(only)
    study = open_study(
        job.profile, job.data_root or "", job.categories, job.seeds, device=device, progress=progress, store=job.store
    )
    for folder in (job.store, *(p for top in (job.results, job.figures) for p in (top, *top.rglob("*")))):
        sweep(folder)
    code = code_version()
    digests = {name: study.digest(name) for name in study.categories}
    names = list(study.experiments())
    specs = {s.folder(job.store): s for name in names for _, s in study.specs(name)}
    write_provenance(job, study, code, device, digests, {}, complete=False)
    yield f"{job.profile}: {len(specs)} runs of {', '.join(study.categories)}, kept in {job.store}"
    study.train(names)
    write_records(study, job)
    study.floors()
    seconds: dict[str, float] = {}
    for path in chosen:
        key, begun = stamp_key(path, job, digests, device), time.monotonic()
        stamp = job.store / "stamps" / job.name / f"{path.stem}.json"
        if up_to_date(stamp, key, job.out):
            yield f"{path.stem}: up to date"
            continue
        before = written(job)
        target = job.results / "notebooks" / path.name
        execute(path, target, job.parameters(), environment=job.environment(device), cwd=path.parent, progress=progress)
        seconds[path.stem] = round(time.monotonic() - begun, 1)
        made = [p for p, when in written(job).items() if before.get(p) != when]
        write_json(stamp, {"key": key, "files": {p.relative_to(job.out).as_posix(): digest(p) for p in made}})
        yield f"{path.stem}: {seconds[path.stem]:.0f} s"
    write_provenance(job, study, code, device, digests, seconds, complete=not only)
    report = build_report(job.results, job.figures, job.results / "report", f"advit: {job.name}")
    yield from summary(job)
    yield f"{(time.monotonic() - start) / 60:.1f} minutes. Report: {report}"


def choose_notebooks(only: Sequence[str]) -> list[Path]:
    """The notebooks to run. Raises ConfigError for one that does not exist, or without a checkout."""
    known = notebook_paths(NOTEBOOKS)
    if not known:
        raise ConfigError(f"No notebooks in {NOTEBOOKS}: 'reproduce' needs a checkout of the repository.")
    for name in only:
        if not any(p.stem == name or p.stem.startswith(f"{name}_") for p in known):
            stems = [p.stem for p in known]
            raise ConfigError(f"No notebook {name!r}: choose {', '.join(stems)}.{nearest(name, stems)}")
    return [p for p in known if not only or any(p.stem == n or p.stem.startswith(f"{n}_") for n in only)]


def stamp_key(path: Path, job: Job, digests: dict[str, str], device: torch.device) -> str:
    """Digest of all that an executed notebook follows from."""
    drawing = [matplotlib.__version__, pd.__version__, str(device)]
    published = [p.read_text(encoding="utf-8") for p in sorted(FOLDER.glob("*.csv"))]
    parts = [path.read_text(encoding="utf-8"), package_digest(), *published]
    rest = json.dumps([job.parameters(), digests, versions(), drawing])
    return hashlib.sha256("\0".join([*parts, rest]).encode()).hexdigest()


def package_digest() -> str:
    """Digest of every module, plots included, and of the code of the runs."""
    total = hashlib.sha256(code_digest().encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        total.update(path.read_bytes())
    return total.hexdigest()


def up_to_date(stamp: Path, key: str, out: Path) -> bool:
    """Whether a notebook was executed with this key and its files are still those it wrote."""
    try:
        found = json.loads(stamp.read_text(encoding="utf-8"))
        return found["key"] == key and all(digest(out / name) == value for name, value in found["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def written(job: Job) -> dict[Path, int]:
    """Tables, figures and executed notebooks there are, with the time of each."""
    folders = (job.results / "tables", job.figures, job.results / "notebooks")
    files = [p for folder in folders if folder.is_dir() for p in folder.iterdir() if p.is_file()]
    return {p: p.stat().st_mtime_ns for p in files if ".failed." not in p.name}


def write_records(study: Study, job: Job) -> None:
    """One JSON record per run, an index of the experiments they belong to, and contact sheets of the main runs."""
    keep: set[str] = set()
    text = io.StringIO()
    index = csv.writer(text, lineterminator="\n")
    index.writerow(["experiment", "variant", "category", "seed", *METRIC_KEYS, "record"])
    for name in study.experiments():
        for run in study.run(name):
            record = f"{run.folder.name}.json"
            if record not in keep:
                write_json(job.results / "runs" / record, run.record)
            keep.add(record)
            metrics = ["" if run.record.get(k) is None else f"{run.record[k]:.4f}" for k in METRIC_KEYS]
            index.writerow([name, run.variant, run.category, run.seed, *metrics, record])
            if name == "main" and run.seed == study.seeds[0] and (run.folder / SHEET).exists():
                with atomic(job.figures / f"contact_sheet_{run.category}.png") as temporary:
                    shutil.copyfile(run.folder / SHEET, temporary)
    for path in (job.results / "runs").glob("*.json"):  # of earlier versions
        if path.name not in keep:
            path.unlink()
    write_text(job.results / "runs.csv", text.getvalue())


def write_provenance(
    job: Job, study: Study, code: dict[str, Any], device: torch.device, digests: dict[str, str],
    seconds: dict[str, float], complete: bool,
) -> None:  # fmt: skip
    """Where the tables of a job come from; nothing to write if all of it was up to date.

    Times of notebooks that were up to date are those of their last run. ``complete``: whether every notebook has been
    executed; a job that stops leaves False.
    """
    path = job.results / "provenance.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        earlier, same = found["seconds"], found["code_digest"] == code_digest() and found["data_digests"] == digests
    except (OSError, ValueError, KeyError, TypeError):
        earlier, same, found = {}, False, {}
    if same and not seconds and found.get("complete"):
        return
    known = {p.stem for p in notebook_paths(NOTEBOOKS)}
    write_json(path, {
        "profile": job.profile, "data": "embedded" if study.embedded else study.root.name, "data_digests": digests,
        "seeds": list(job.seeds) or "those of the profile", **code, "code_digest": code_digest(),
        "versions": versions(), "device": device_name(device),
        "cpu": cpu_family(), "complete": complete,
        "seconds": {k: v for k, v in {**earlier, **seconds}.items() if k in known},
    })  # fmt: skip


def cpu_family() -> str:
    """Maker and family of the processor and the instructions PyTorch uses on it: what rounding may depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        found = dict(line.split(":", 1) for line in lines if line.startswith(("vendor_id", "cpu family")))
        name = " ".join(value.strip() for value in found.values())
    except (OSError, ValueError):
        name = platform.processor()
    return f"{name or platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def summary(job: Job) -> Iterator[str]:
    """The main tables, as they were written, for a terminal."""
    chosen = {
        "main": ["category", FULL_NAMES["image_auroc"], FULL_NAMES["pixel_auroc"], FULL_NAMES["aupro_0.3"]],
        "claims": ["claim", "measured", "value", "low", "high", "verdict"],
    }
    for name, columns in chosen.items():
        path = job.results / "tables" / f"{name}.csv"
        if path.exists():
            caption = path.with_suffix(".md").read_text(encoding="utf-8").splitlines()[0]
            yield f"\n{Table(pd.read_csv(path)[columns], caption)!r}\n"
    yield f"tables: {job.results / 'tables'}   figures: {job.figures}   notebooks: {job.results / 'notebooks'}"
