"""The main job: every category and seed trained and evaluated, then tables and figures from the records."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from advit.config import ADViTConfig
from advit.data import open_category
from advit.evaluation import IMAGE_KEYS, PIXEL_KEYS
from advit.files import atomic, write_text
from advit.plots import house_style, metrics_figure, overview_figure
from advit.precision import resolve_precision
from advit.runs import EXAMPLE, METRICS, SHEET, identity_of, train_run

FULL_NAMES = {
    "image_auroc": "image-level AUROC",
    "image_ap": "image-level AP",
    "image_f1max": "image-level F1-max",
    "pixel_auroc": "pixel-level AUROC",
    "pixel_ap": "pixel-level AP",
    "aupro_0.3": "AU-PRO (FPR ≤ 0.3)",
    "aupro_0.05": "AU-PRO (FPR ≤ 0.05)",
}


def reproduce(
    root: Path, names: Sequence[str], config: ADViTConfig, seeds: Sequence[int], out: Path, name: str,
    device: torch.device, progress: bool = True,
) -> Iterator[str]:  # fmt: skip
    """Run everything that is not stored yet; yields lines to print.

    Runs (with weights) go to ``out/runs``, each in a folder named by what it is and by a key of its content, so that
    nothing is ever overwritten; a finished run is not repeated, an interrupted one continues. Their records, without
    weights, go to ``out/results/name``, figures to ``out/figures/name``.

    Test: tests/test_runs.py
    """
    config, records, examples = replace(config, precision=resolve_precision(config.precision, device)), [], []
    results, figures = out / "results" / name, out / "figures" / name
    for category in [open_category(root, n) for n in names]:
        for seed in seeds:
            identity = identity_of(config, seed, category)
            run = out / "runs" / f"{category.name}-seed{seed}-{content_key(identity)}"
            record = stored_record(run, identity)
            if record is None:
                record = train_run(category, config, seed=seed, out=run, device=device, resume=True, progress=progress)
            records.append(record)
            copy(run / METRICS, results / "runs" / f"{category.name}-seed{seed}.json")
            if seed == seeds[0]:
                copy(run / SHEET, figures / f"contact_sheet_{category.name}.png")
                examples += [dict(np.load(path)) for path in [run / EXAMPLE] if path.exists()]
            numbers = ", ".join(f"{FULL_NAMES[k]} {record[k]:.3f}" for k in shown(record))
            yield f"{category.name} seed {seed}: {numbers}"
    table = metrics_table(records)
    write_text(results / "metrics.csv", table.to_csv(index=False, float_format="%.4f", lineterminator="\n"))
    write_text(results / "metrics.md", markdown_table(table))
    save_figure(metrics_figure(table, FULL_NAMES), figures / "metrics")
    if examples:
        save_figure(overview_figure(examples), figures / "overview")
    yield f"tables: {results / 'metrics.md'}   figures: {figures}"


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG and as SVG without a date, so that equal figures are equal files."""
    with atomic(path.with_suffix(".png")) as temporary:
        figure.savefig(temporary, dpi=200)
    with house_style(), atomic(path.with_suffix(".svg")) as temporary:
        figure.savefig(temporary, metadata={"Date": None})


def content_key(identity: dict[str, Any]) -> str:
    """Eight hexadecimal digits that differ between runs of different configuration, seed, category or data."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def stored_record(run: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a finished run of exactly this configuration, seed and data; None if there is none."""
    try:
        record = json.loads((run / METRICS).read_text(encoding="utf-8"))
        found = (record["config"], record["provenance"]["seed"], record["provenance"]["data_digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if found == (identity["config"], identity["seed"], identity["data_digest"]) else None


def copy(source: Path, target: Path) -> None:
    """Copy a file atomically; nothing to do if the run made none."""
    if source.exists():
        with atomic(target) as temporary:
            shutil.copyfile(source, temporary)


def shown(record: dict[str, Any]) -> list[str]:
    """The metrics of a record that are defined."""
    return [k for k in (*IMAGE_KEYS, *PIXEL_KEYS) if record.get(k) is not None]


def metrics_table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row per category and one for the mean of the categories; mean and sd over seeds (sd of n - 1)."""
    keys = [*IMAGE_KEYS, *PIXEL_KEYS]
    rows = pd.DataFrame([{"category": r["category"], **{k: r.get(k) for k in keys}} for r in records])
    rows = rows.astype({k: float for k in keys})
    groups = rows.groupby("category", sort=True)
    mean, sd = groups.mean().reset_index(), groups.std().reset_index()
    table = mean.assign(seeds=groups.size().to_numpy()).join(sd[keys].add_suffix("_sd"))
    average = {"category": "mean", "seeds": int(table["seeds"].min()), **mean[keys].mean().to_dict()}
    return pd.concat([table, pd.DataFrame([average])], ignore_index=True)


def markdown_table(table: pd.DataFrame) -> str:
    """The table as Markdown: three decimals, ± sd where there are several seeds, a dash where undefined."""
    keys = [*IMAGE_KEYS, *PIXEL_KEYS]

    def cell(row: pd.Series, key: str) -> str:
        if pd.isna(row[key]):
            return "-"
        sd = row.get(f"{key}_sd")
        return f"{row[key]:.3f}" + ("" if sd is None or pd.isna(sd) else f" ± {sd:.3f}")

    lines = [
        "| category | " + " | ".join(FULL_NAMES[k] for k in keys) + " |",
        "|---|" + "---|" * len(keys),
        *(f"| {row['category']} | " + " | ".join(cell(row, k) for k in keys) + " |" for _, row in table.iterrows()),
    ]
    return "\n".join(lines) + "\n"
