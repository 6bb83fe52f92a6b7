"""The results table of README.md, generated from the records under ``results``."""

from __future__ import annotations

import json
import re
from pathlib import Path

from advit.files import write_text
from advit.reproduce import markdown_table, metrics_table

MARKERS = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)
TITLES = {
    "quick": "Embedded data, preset `quick` (`make reproduce`)",
    "real": "Real images, preset `quick` (`advit reproduce -p CATEGORY --data ROOT --name real`)",
}


def results_block(results: Path) -> str:
    """Markdown of every table: one per folder of records, with what the records say of time and device.

    Test: tests/test_readme.py
    """
    parts = []
    for folder, title in TITLES.items():
        files = sorted((results / folder / "runs").glob("*.json"))
        records = [json.loads(path.read_text(encoding="utf-8")) for path in files]
        if not records:
            continue
        table = metrics_table(records)
        if folder == "real":
            table = table[table["category"] != "mean"]
        parts.append(f"{title}:\n\n{markdown_table(table)}\n{small_print(records)}\n")
    return "\n".join(parts)


def small_print(records: list[dict]) -> str:
    """Seeds, device and minutes of the records behind a table."""
    minutes = [(r["provenance"]["seconds"] + r["provenance"]["training"]["seconds"]) / 60 for r in records]
    devices = sorted({r["provenance"]["training"]["device"] for r in records})
    seeds = sorted({r["provenance"]["seed"] for r in records})
    low, high = round(min(minutes)), round(max(minutes))
    times = f"{low} to {high}" if high > low else f"about {high}"
    return f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}; {times} minutes a run on {', '.join(devices)}."


def update(readme: Path, results: Path) -> None:
    """Write the tables between the markers of ``readme``."""
    block = results_block(results)
    write_text(readme, MARKERS.sub(lambda m: m[1] + block + m[2], readme.read_text(encoding="utf-8")))


if __name__ == "__main__":
    update(Path("README.md"), Path("results"))
