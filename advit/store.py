"""Stored runs: each in a folder named by its content, trained once, whoever asks for it and however often."""

from __future__ import annotations

import ast
import hashlib
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from PIL import Image
from safetensors import safe_open
from tqdm.auto import tqdm

from advit.allocator import keep_freed_memory
from advit.calibration import held_out
from advit.config import ADViTConfig
from advit.data import open_category
from advit.errors import AdvitError, CheckpointError, TrainingError
from advit.files import exclusive
from advit.native import SOURCES
from advit.precision import resolve_precision
from advit.remains import sweep
from advit.runs import EXAMPLE, METRICS, PATCHES, SCORES_CSV, SHEET, TRAINING, identity_of, train_run
from advit.samples import Category
from advit.training import CHECKPOINT, LOG, total_steps

BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left {postfix}"
PRESENTATION = ("cli", "__main__", "plots", "readme", "report", "localize", "data_download", "data_check")


@dataclass(frozen=True)
class RunSpec:
    """One run: a category of a root, a configuration (precision resolved), a seed, and whether to draw pictures."""

    root: Path
    category: str
    config: ADViTConfig
    seed: int
    digest: str  # of the category's data
    pictures: bool = False

    def identity(self) -> dict[str, Any]:
        """What the run's numbers depend on: configuration, seed, data, code and version of PyTorch."""
        return {
            **identity_of(self.config, self.seed, self.category, self.digest),
            "code": code_digest(),
            "torch": torch.__version__,
        }

    def folder(self, store: Path) -> Path:
        """Its folder, ``category-seed-key``: another configuration, data set or version of the code has another."""
        return store / f"{self.category}-seed{self.seed}-{content_key(self.identity())}"


def content_key(identity: dict[str, Any]) -> str:
    """Ten hexadecimal digits that differ between runs of different identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]


@cache
def code_digest(start: str = "runs") -> str:
    """SHA-256 of the statements of every module that ``start`` imports, without comments and docstrings.

    With ``native`` come those of its C++. A run is trained again when code that could change its numbers has changed,
    not when a comment or a plot has.
    Test: tests/test_store.py
    """
    total = hashlib.sha256()
    for name in sorted(decisive_modules(start)):
        total.update(f"{name}\n{statements((HERE / f'{name}.py').read_text(encoding='utf-8'))}\n".encode())
        if name == "native":
            total.update("\n".join(cpp_statements(x.read_text(encoding="utf-8")) for x in SOURCES).encode())
    return total.hexdigest()


HERE = Path(__file__).resolve().parent


def cpp_statements(source: str) -> str:
    """C++ without comments (// alone, no string in it) and layout."""
    return " ".join(word for line in source.splitlines() for word in line.partition("//")[0].split())


def decisive_modules(start: str) -> set[str]:
    """Modules of advit that ``start`` imports, directly or not, except those that only draw."""
    found, todo = set(), [start]
    while todo:
        name = todo.pop()
        if name in found or name in PRESENTATION or not (HERE / f"{name}.py").is_file():
            continue
        found.add(name)
        for node in ast.walk(ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("advit."):
                todo.append(node.module.split(".")[1])
    return found


def statements(source: str) -> str:
    """Source without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def stored_record(spec: RunSpec, store: Path) -> dict[str, Any] | None:
    """The record of a finished run, or None."""
    folder = spec.folder(store)
    try:
        record = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    judged = isinstance(record, dict) and "image_auroc" in record
    wanted = judged * [PATCHES, *([SHEET, EXAMPLE] if spec.pictures else [])]
    return record if isinstance(record, dict) and all((folder / name).exists() for name in wanted) else None


def is_stored(spec: RunSpec, store: Path) -> bool:
    """Whether a run is finished and every file of it can be opened."""
    return stored_record(spec, store) is not None and not damaged(spec.folder(store))


def damaged(folder: Path) -> list[Path]:
    """Files of a run that were cut off or overwritten after they had been written whole. Test: tests/test_store.py"""
    found = [path for path in sorted(folder.glob("[!.]*.*")) if path.is_file() and not opens(path)]
    table = folder / SCORES_CSV
    if table not in found and folder / METRICS not in found and not scores_are_whole(folder):
        found.append(table)
    return found


def scores_are_whole(folder: Path) -> bool:
    """Whether scores.csv, if it is there, has a line for every test image: cut at the end of a line it opens."""
    try:
        images = json.loads((folder / METRICS).read_text(encoding="utf-8"))["images"]["test"]
        return len((folder / SCORES_CSV).read_text(encoding="utf-8").splitlines()) == 1 + images
    except (FileNotFoundError, LookupError, TypeError):  # there is nothing to compare
        return True


def opens(path: Path) -> bool:
    """Whether a file is whole by what its format says of itself; weights are measured and not read.

    Raises OSError if it may not be read, which is no damage.
    """
    with open(path, "rb") as file:
        try:
            if path.suffix == ".npz":
                return ZipFile(file).testzip() is None
            if path.suffix == ".png":
                Image.open(file).verify()
            elif path.suffix == ".safetensors":
                safe_open(path, framework="pt").keys()
            else:
                text = file.read().decode()
                for part in {".json": [text], ".jsonl": text.splitlines()}.get(path.suffix, []):
                    json.loads(part)
                return text.endswith("\n")
        except Exception:  # readers meet arbitrary bytes with errors of any type
            return False
    return True


def remove_damaged(folder: Path) -> None:
    """Remove the damaged files of a run and its record, with a line on stderr; what is whole is not made again."""
    names = {path.name for path in damaged(folder)}
    if not names:
        return
    tqdm.write(f"advit: damaged, made again: {', '.join(sorted(names))} in {folder}", file=sys.stderr)
    if names & {CHECKPOINT, TRAINING}:  # weights, and when and where they were made
        names |= {CHECKPOINT, TRAINING}
    for name in (METRICS, *sorted(names)):  # the record first: without it a run is not finished
        (folder / name).unlink(missing_ok=True)


def require_runs(
    specs: Sequence[RunSpec], store: Path, device: torch.device, *, processes: int, progress: bool = True
) -> None:
    """Train what is not stored. Runs go side by side in processes of one thread each, one at a time on a GPU.

    One thread each, so that the numbers of a CPU do not depend on how many cores it has or how many runs go side by
    side. A run is written by one process at a time (others wait for it), survives a kill, and continues. Files that
    were damaged since are made again.

    Raises:
        AdvitError: the first that a run raised, or if a process died (out of memory, killed); finished runs are kept.

    Test: tests/test_store.py
    """
    missing = [spec for spec in specs if not is_stored(spec, store)]
    todo = {spec.folder(store): spec for spec in sorted(missing, key=lambda s: s.pictures)}  # with pictures wins
    if not todo:
        return
    order = sorted(todo.values(), key=lambda s: -work(s))  # the longest first, so that no core idles at the end
    sizes = {spec.folder(store): work(spec) for spec in order}
    bar = tqdm(total=sum(sizes.values()), desc=f"train {len(order)} runs", disable=not progress, bar_format=BAR)
    count = min(processes, cores(), len(order)) if device.type == "cpu" else 1
    try:
        if count == 1:
            for spec in order:
                train_spec(spec, store, device)
                bar.update(sizes[spec.folder(store)])
            return
        with worker_pool(count) as pool:
            futures = {pool.submit(train_spec, spec, store, device): spec.folder(store) for spec in order}
            follow(futures, sizes, {spec.folder(store): steps_of(spec) for spec in order}, bar)
    except BrokenProcessPool:
        raise AdvitError(
            "A training process was killed, perhaps for lack of memory. Finished runs are kept: repeat the command to "
            "continue."
        ) from None
    finally:
        bar.close()


def cores() -> int:
    """Cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def follow(futures: dict[Future, Path], sizes: dict[Path, float], steps: dict[Path, int], bar: tqdm) -> None:
    """Wait for all futures, moving the bar by what the runs' logs say; the first error ends it."""
    pending, done = set(futures), 0
    while pending:
        finished, pending = wait(pending, timeout=3, return_when=FIRST_COMPLETED)
        for future in finished:
            future.result()
            done += 1
        bar.set_postfix_str(f"{done} of {len(futures)} runs")
        ended = sum(sizes[folder] for future, folder in futures.items() if future.done())
        running = sum(
            sizes[folder] * 0.9 * steps_logged(folder) / steps[folder]
            for future, folder in futures.items()
            if future.running()
        )
        bar.n = max(bar.n, min(bar.total, ended + running))
        bar.refresh()


def steps_of(spec: RunSpec) -> int:
    """Optimiser steps of a run."""
    count = len(open_category(spec.root, spec.category).train)
    return total_steps(spec.config, count - len(held_out(count)))


def work(spec: RunSpec) -> float:
    """How long a run takes, roughly: images seen in training, target fitting (some three times as many steps' worth
    per training image, with its changed copies) and scoring, times pixels, those of the public decoder included.
    """
    category = open_category(spec.root, spec.category)
    seen = steps_of(spec) * spec.config.batch_size + 3 * len(category.train) + len(category.test)
    return seen * float(spec.config.image_size**2 + 512**2 * (spec.config.model == "vt_adl"))


def steps_logged(folder: Path) -> int:
    """Steps that a running run has saved so far."""
    try:
        return int(json.loads((folder / LOG).read_text(encoding="utf-8").splitlines()[-1])["step"])
    except (OSError, ValueError, KeyError, IndexError):
        return 0


@contextmanager
def worker_pool(count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with their parent, however it ends; what has not begun is dropped on an error."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=begin_worker)
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def begin_worker() -> None:
    """What every worker begins with."""
    keep_freed_memory()
    end_with_parent()


def end_with_parent() -> None:
    """End this process as soon as its parent has ended, also if that was killed."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for PyTorch, for the length of a block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train_spec(spec: RunSpec, store: Path, device: torch.device) -> None:
    """Train, calibrate and analyse one run in its folder of the store; nothing to do if it is finished.

    Raises TrainingError naming category, seed and folder, CheckpointError with what to delete.
    """
    folder = spec.folder(store)
    with exclusive(folder.with_name(f".{folder.name}.lock")), one_thread():
        if is_stored(spec, store):
            return
        sweep(folder)
        remove_damaged(folder)
        try:
            train_run(
                open_category(spec.root, spec.category), spec.config, seed=spec.seed, out=folder, device=device,
                resume=True, progress=False, pictures=spec.pictures, study=True,
            )  # fmt: skip
        except TrainingError as error:
            raise TrainingError(f"{spec.category}, seed {spec.seed}, in {folder}: {error}") from error
        except CheckpointError as error:
            raise CheckpointError(f"{error} To train it again, delete {folder}.") from error


def make_spec(
    category: Category, digest: str, config: ADViTConfig, seed: int, device: torch.device, pictures: bool
) -> RunSpec:
    """The run of a category under a configuration, whose precision is decided by the device."""
    config = replace(config, precision=resolve_precision(config.precision, device))
    return RunSpec(category.root.parent, category.name, config, seed, digest, pictures)
