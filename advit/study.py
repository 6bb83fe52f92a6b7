"""What a notebook works with: data, runs, floors, and a place for tables and figures."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from advit.cache import ImageCache
from advit.config import ADViTConfig
from advit.data import data_digest, list_categories, open_category
from advit.detector import Detector
from advit.errors import ConfigError, DataError, nearest
from advit.floors import floor_table
from advit.plots import save_figure
from advit.profiles import Experiment, Profile, experiments, find_profile
from advit.results import PACKAGES, versions
from advit.runs import EXAMPLE, PATCHES, load_run
from advit.samples import Category
from advit.store import RunSpec, make_spec, require_runs, stored_record
from advit.synthetic import embedded_root
from advit.tables import DECISION_KEYS, METRIC_KEYS, Table, decided
from advit.training import LOG

# Environment variables by which 'make reproduce' speaks to the notebooks.
STORE, RESULTS, FIGURES, DEVICE = "ADVIT_STORE", "ADVIT_RESULTS", "ADVIT_FIGURES", "ADVIT_DEVICE"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Run:
    """One finished run of an experiment; ``record`` is its ``metrics.json``."""

    variant: str
    category: str
    seed: int
    folder: Path
    record: dict[str, Any]

    def log(self) -> pd.DataFrame:
        """Losses per epoch, and the discrepancy of test patches where it was probed."""
        lines = (self.folder / LOG).read_text(encoding="utf-8").splitlines()
        return pd.DataFrame([json.loads(line) for line in lines])

    def detector(self) -> Detector:
        """The trained network on the CPU with standards for every kind of score."""
        return load_run(self.folder, CPU)[0]

    def example(self) -> dict[str, np.ndarray]:
        """The defect of median score for figures, see :func:`advit.runs.median_example`; empty without test images."""
        return read_arrays(self.folder / EXAMPLE)

    def patches(self) -> dict[str, np.ndarray]:
        """Patch scores of the test images, see :func:`advit.analysis.analyse`; empty without test images."""
        return read_arrays(self.folder / PATCHES)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Named arrays of a file; none if there is no such file."""
    if not path.exists():
        return {}
    with np.load(path) as arrays:
        return dict(arrays)


@dataclass(frozen=True)
class Runs(Sequence):
    """The runs of an experiment, in the order of variant, category and seed."""

    runs: tuple[Run, ...]

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, index: int) -> Run:
        return self.runs[index]

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    @property
    def table(self) -> pd.DataFrame:
        """One row per run: variant, category, seed and the seven metrics, NaN where undefined."""
        return self._rows(metrics_of, METRIC_KEYS)

    def _rows(self, values: Callable[[dict[str, Any]], dict[str, Any]], keys: Sequence[str]) -> pd.DataFrame:
        """One row per run: variant, category, seed and ``values`` of its record."""
        rows = [{"variant": r.variant, "category": r.category, "seed": r.seed, **values(r.record)} for r in self]
        return pd.DataFrame(rows, columns=["variant", "category", "seed", *keys])

    @property
    def decisions(self) -> pd.DataFrame:
        """The same with how many defect-free and anomalous test images are said to be anomalous."""
        return self._rows(decided, DECISION_KEYS)

    def only(self, variant: str | None = None, category: str | None = None, seed: int | None = None) -> Runs:
        """The runs that agree with what is given."""
        wanted = {"variant": variant, "category": category, "seed": seed}
        keep = [r for r in self if all(v is None or getattr(r, k) == v for k, v in wanted.items())]
        return Runs(tuple(keep))

    def first(self) -> Run:
        """The first run."""
        return self.runs[0]

    def variants(self) -> list[str]:
        """Names of the variants, in their order."""
        return list(dict.fromkeys(r.variant for r in self))


def metrics_of(record: dict[str, Any]) -> dict[str, float]:
    """The seven metrics of a record as floats, NaN where undefined."""
    return {k: np.nan if record.get(k) is None else float(record[k]) for k in METRIC_KEYS}


@dataclass(frozen=True)
class Shown:
    """A figure as a notebook shows it."""

    png: bytes
    alt: str

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        return self.png, {"alt": self.alt}

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"


@dataclass(frozen=True)
class Study:
    """A profile on a data set. Made by :func:`open_study`.

    store: folder of runs. results, figures: where tables and figures are written; None: they are only shown.
    """

    profile: Profile
    root: Path
    categories: list[str]
    seed_override: tuple[int, ...]
    store: Path
    results: Path | None
    figures: Path | None
    device: torch.device
    progress: bool = False
    embedded: bool = True
    _digests: dict[str, str] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the main experiment."""
        return self.experiments()["main"].seeds

    def experiments(self) -> dict[str, Experiment]:
        """Every experiment of the profile by name."""
        return experiments(self.profile, self.seed_override)

    def category(self, name: str) -> Category:
        """Samples of a category."""
        return open_category(self.root, name)

    def digest(self, name: str) -> str:
        """Digest of a category's files, read once."""
        if name not in self._digests:
            self._digests[name] = data_digest(self.category(name))
        return self._digests[name]

    def images(self, name: str, config: ADViTConfig) -> tuple[ImageCache, ImageCache]:
        """Training and test images of a category at a configuration's size, decoded when asked for."""
        category = self.category(name)
        return (
            ImageCache(category.train, config.image_size),
            ImageCache(category.test, config.image_size, mask_size=config.evaluation_size),
        )

    def specs(self, experiment: str) -> list[tuple[str, RunSpec]]:
        """The runs of an experiment with the names of their variants."""
        known = self.experiments()
        if experiment not in known:
            raise ConfigError(f"No experiment {experiment!r}: {', '.join(known)}.{nearest(experiment, list(known))}")
        e = known[experiment]
        return [
            (variant, make_spec(self.category(name), self.digest(name), config, seed, self.device, e.pictures))
            for variant, config in e.variants.items()
            for name in self.categories
            for seed in e.seeds
        ]

    def train(self, names: Sequence[str]) -> int:
        """Train what several experiments still lack. Returns how many different runs they have."""
        specs = [spec for name in names for _, spec in self.specs(name)]
        require_runs(specs, self.store, self.device, processes=self.profile.processes, progress=self.progress)
        return len({spec.folder(self.store) for spec in specs})

    def run(self, experiment: str) -> Runs:
        """The runs of an experiment; those that are not stored are trained first."""
        self.train([experiment])
        return Runs(
            tuple(
                Run(variant, s.category, s.seed, s.folder(self.store), stored_record(s, self.store))
                for variant, s in self.specs(experiment)
            )
        )

    def floors(self) -> pd.DataFrame:
        """What the classical floors reach, as :attr:`Runs.table`; computed once and stored."""
        parts = [
            floor_table(self.category(name), self.digest(name), self.profile.floor_size, self.store, self.progress)
            for name in self.categories
        ]
        return pd.concat(parts, ignore_index=True)

    def table(self, frame: pd.DataFrame, name: str, caption: str, digits: int = 3) -> Table:
        """Show a table; under ``make reproduce`` also write it as CSV, Markdown and LaTeX."""
        table = Table(frame, caption, digits)
        if self.results is not None:
            table.write(self.results / "tables", name)
        return table

    def figure(self, figure: Figure, name: str, alt: str) -> Shown:
        """Show a figure; under ``make reproduce`` also write it as PNG and SVG. ``alt``: what it shows, in words."""
        if self.figures is not None:
            save_figure(figure, self.figures / name, alt)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
        return Shown(buffer.getvalue(), alt)

    def versions(self) -> Table:
        """Versions of what decides the numbers."""
        found = versions()
        return Table(pd.DataFrame({"package": list(PACKAGES), "version": [found[p] for p in PACKAGES]}), "Versions.")


def default_store() -> Path:
    """Where runs are stored: $ADVIT_STORE, or ``runs/store`` of the repository."""
    return Path(os.environ.get(STORE) or Path(__file__).resolve().parents[1] / "runs" / "store")


def open_study(
    profile: str,
    data_root: str | Path = "",
    categories: Sequence[str] = (),
    seeds: Sequence[int] = (),
    *,
    device: torch.device | None = None,
    progress: bool = False,
    store: Path | None = None,
) -> Study:
    """A study from a notebook's parameters.

    Runs are stored in ``runs/store`` of the repository ($ADVIT_STORE elsewhere). Tables and figures are written where
    $ADVIT_RESULTS and $ADVIT_FIGURES say, which ``make reproduce`` sets; without them nothing is written.

    Raises:
        ConfigError: unknown profile, or a seed that is no whole number. DataError: no such data or category.

    Test: tests/test_study.py
    """
    chosen = find_profile(profile)
    if any(not isinstance(s, int) or isinstance(s, bool) or s < 0 for s in seeds):
        raise ConfigError(f"seeds={list(seeds)}: must be whole numbers, zero or more.")
    root = Path(data_root) if data_root else embedded_root(**chosen.embedded, progress=progress)
    known = list_categories(root)
    for name in categories:
        if name not in known:
            raise DataError(f"No category {name!r} in {root}: {', '.join(known)}.{nearest(name, known)}")
    results, figures = (Path(os.environ[v]) if os.environ.get(v) else None for v in (RESULTS, FIGURES))
    store = store or default_store()
    if device is None:
        gpu = torch.cuda.is_available() and chosen.name != "smoke"
        device = torch.device(os.environ.get(DEVICE) or ("cuda" if gpu else "cpu"))
    return Study(
        chosen, root, list(dict.fromkeys(categories)) or known, tuple(dict.fromkeys(seeds)), store, results, figures,
        device, progress, not data_root,
    )  # fmt: skip
