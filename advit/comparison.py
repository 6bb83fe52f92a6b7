"""Variants of a configuration side by side: the same categories, seeds and metrics, and what each change gains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from advit.config import ADViTConfig, parse_options, with_options
from advit.data import data_digest, open_category
from advit.errors import ConfigError
from advit.floors import floor_table
from advit.pasted import PASTED_SIZE, pasted_root
from advit.presets import preset
from advit.profiles import Profile
from advit.stats import paired
from advit.store import make_spec, require_runs, stored_record
from advit.tables import DECISION_KEYS, FULL_NAMES, MAIN_KEYS, METRIC_KEYS, decided

MEAN = "mean"


def variants_of(base: ADViTConfig, name: str, changes: Sequence[Sequence[str]]) -> dict[str, ADViTConfig]:
    """``base`` under its name, then one variant for each list of OPTION=VALUE, called what it changes.

    ``preset=NAME`` in a list starts from that preset instead of ``base``.

    Raises:
        ConfigError: an unknown option or preset, an impossible value, or the same change twice.

    Test: tests/test_comparison.py
    """
    variants = {name: base}
    for pairs in changes:
        label = " ".join(pairs)
        if label in variants:
            raise ConfigError(f"--vary {label} is given twice.")
        other = [pair.removeprefix("preset=") for pair in pairs if pair.startswith("preset=")]
        options = parse_options([pair for pair in pairs if not pair.startswith("preset=")])
        variants[label] = with_options(preset(other[-1]) if other else base, options)
    return variants


def compare(
    root: Path,
    categories: Sequence[str],
    variants: dict[str, ADViTConfig],
    seeds: Sequence[int],
    store: Path,
    device: torch.device,
    *,
    pasted: bool = False,
    floors: bool = False,
    processes: int = 64,
    progress: bool = True,
) -> pd.DataFrame:
    """Train what the store lacks and give one row per run: variant, category, seed, the metrics, how many
    defect-free and anomalous images there are and how many of either are said to be anomalous, seconds of training.

    ``attrs["device"]`` of the table: where the runs were trained, as their records say; ``attrs["pasted_size"]``: of
    pasted defects, None without.

    Args:
        floors: with the classical floors of :mod:`advit.baselines` as further variants, of seed 0.
        pasted: judge on validation sets made of the training images alone (:mod:`advit.pasted`); no test image is
            opened, which is what a choice between variants needs. They are of PASTED_SIZE pixels, or of the largest
            image size of a variant.

    Test: tests/test_comparison.py
    """
    chosen = [open_category(root, name) for name in categories]
    size = None
    if pasted:
        size = max(PASTED_SIZE, *(config.image_size for config in variants.values()))
        roots = [pasted_root(category, store, size=size, progress=progress) for category in chosen]
        chosen = [open_category(place, category.name) for place, category in zip(roots, chosen, strict=True)]
    digests = [data_digest(category) for category in chosen]
    specs = [
        (name, make_spec(category, digest, config, seed, device, False))
        for name, config in variants.items()
        for category, digest in zip(chosen, digests, strict=True)
        for seed in seeds
    ]
    require_runs([spec for _, spec in specs], store, device, processes=processes, progress=progress)
    rows, devices = [], set()
    for name, spec in specs:
        record = stored_record(spec, store)
        training = record["provenance"].get("training", {})
        devices |= {training["device"]} if training else set()
        metrics, seconds = {k: record.get(k) for k in METRIC_KEYS}, training.get("seconds")
        run = {"variant": name, "category": spec.category, "seed": spec.seed}
        rows.append({**run, **metrics, **decided(record), "seconds": seconds})
    parts = [pd.DataFrame(rows)]
    if floors:
        parts += [floor_table(c, d, Profile.floor_size, store, progress) for c, d in zip(chosen, digests, strict=True)]
    table = pd.concat(parts, ignore_index=True).astype({k: float for k in METRIC_KEYS})
    table = table.astype({k: "Int64" for k in DECISION_KEYS})
    table.attrs |= {"device": ", ".join(sorted(devices)), "pasted_size": size}
    return table


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and sd of image-level AUROC, pixel-level AUROC and AU-PRO over seeds, for each variant and category.

    With several categories also over all of them (sd: between categories). The last columns say what each variant gains
    on the first one, paired by category and seed, with its 95 % interval where there are three categories or more or,
    of a single one, three seeds. What has one seed only (a floor) is compared with every seed of the first variant.

    Test: tests/test_comparison.py
    """
    names = list(dict.fromkeys(rows["variant"]))
    categories = list(dict.fromkeys(rows["category"]))
    groups = [(c, rows[rows["category"] == c]) for c in categories]
    groups += [(MEAN, rows)] if len(categories) > 1 else []
    lines = []
    for category, part in groups:
        for name in names:
            mine, line = part[part["variant"] == name], {"category": category, "variant": name}
            for key in MAIN_KEYS:
                values = mine[key] if category != MEAN else mine.groupby("category")[key].mean()
                spread = f" ± {values.std(ddof=1):.3f}" if values.notna().sum() > 1 else ""
                line[FULL_NAMES[key]] = f"{values.mean():.3f}{spread}" if values.notna().any() else "-"
            for key in MAIN_KEYS:
                gain = paired(seeded(part, name), key, name, names[0]) if name != names[0] else None
                line[f"Δ {FULL_NAMES[key]}"] = gain.text(sign=True) if gain else "-"
            seconds = mine["seconds"].astype(float).mean()
            line["seconds"] = "-" if np.isnan(seconds) else f"{seconds:.0f}"
            lines.append(line)
    return pd.DataFrame(lines)


def seeded(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """``rows`` with a variant of one seed repeated for all seeds of its category, so that it can be paired."""
    mine, others = rows[rows["variant"] == name], rows[rows["variant"] != name]
    if mine["seed"].nunique() > 1:
        return rows
    seeds = others[["category", "seed"]].drop_duplicates()
    return pd.concat([others, seeds.merge(mine.drop(columns="seed"), on="category")], ignore_index=True)
