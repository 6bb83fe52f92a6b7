"""``python -m benchmarks``: measure, print the table, write results/benchmarks.json, .md and the figure."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from advit.files import write_text
from advit.plots import save_figure
from advit.speed import ALT, number
from benchmarks import growth
from benchmarks.figure import growth_figure
from benchmarks.machine import facts
from benchmarks.measures import FAST, Sizes, all_rows, row
from benchmarks.table import markdown


def curves(sizes: Sizes) -> dict[str, dict[str, list[list[float]]]]:
    """Growth with patches, images and categories."""
    preset = dict(sizes.preset_options)
    return {
        "patches": growth.by_patches(list(sizes.growth_patches), sizes.growth_published, min(3, sizes.repeats)),
        "images": growth.by_images(list(sizes.growth_images), "quick", min(3, sizes.repeats), **preset),
        "categories": growth.by_categories(list(sizes.growth_categories), sizes.growth_image_size, sizes.repeats),
    }


def reading_row(found: dict[str, dict[str, list[list[float]]]]) -> dict[str, Any]:
    """An epoch of reading from the cache against decoding, at the largest number of categories."""
    cold, warm = (found["categories"][name][-1][1] for name in ("decoding", "from the cache"))
    return row("reading an epoch from the uint8 cache", "ms", warm, cold, "decoding")


def main(arguments: list[str] | None = None) -> None:
    """Measure everything and write it."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--fast", action="store_true", help="tiny sizes, in seconds: shows that it runs, nothing else")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--figures", type=Path, default=Path("figures/benchmarks"))
    options = parser.parse_args(arguments)
    sizes, rows = FAST if options.fast else Sizes(), []
    machine = facts()
    for line in all_rows(sizes):
        rows.append(line)
        against = "" if line["ratio"] is None else f"  {number(line['ratio'])}x of {line['against']}"
        print(f"{line['measure']}: {number(line['ours'])} {line['unit']}{against}", flush=True)
    found = curves(sizes)
    rows.append(reading_row(found))
    results = {"machine": machine, "rows": rows, "curves": found}
    write_text(options.results / "benchmarks.json", json.dumps(results, indent=1) + "\n")
    write_text(options.results / "benchmarks.md", markdown(results))
    save_figure(growth_figure(found), options.figures / "growth.png", ALT)


if __name__ == "__main__":
    main()
