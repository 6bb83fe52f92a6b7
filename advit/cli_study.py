"""``advit study``: variants of a preset, compared on the same categories and seeds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from advit.presets import PRESETS, preset

EXAMPLES = """examples:
  advit study --pasted --vary mask_blocks=1 --vary density_score=nll
      the preset against two changes of it, on defects pasted on the training images of the embedded data
  advit study --data mvtec -p bottle --seeds 0 1 2 --vary minimax=none minimax_lambda=0
      without minimax, three seeds, on the test images

Runs are stored and never trained twice; a killed command continues. Choose on --pasted, which opens no test image;
look at test images to report, not to choose."""


def add_study_command(commands: Any) -> argparse.ArgumentParser:
    """The command's options, but for data, category and device, which it shares with others."""
    study = commands.add_parser(
        "study", help="compare variants of a preset over categories and seeds", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    study.add_argument("-p", "--category", nargs="+", metavar="CATEGORY", help="default: all")
    study.add_argument("--preset", default="quick", metavar="NAME", help=f"{', '.join(PRESETS)} (default: quick)")
    study.add_argument(
        "--vary", action="append", nargs="+", default=[], metavar="OPTION=VALUE",
        help="a variant; repeatable. preset=NAME starts it from another preset",
    )  # fmt: skip
    study.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED", help="default: 0")
    study.add_argument("--floors", action="store_true", help="with the classical floors, which have no network")
    study.add_argument(
        "--pasted", action="store_true",
        help="judge on defects pasted on held-out training images, as large as the largest variant looks",
    )  # fmt: skip
    study.add_argument("--out", type=Path, metavar="DIR", help="also write tables, runs.csv and provenance.json here")
    return study


def run_study(args: argparse.Namespace, root: Path, names: list[str], device: Any) -> str:
    """Train what is missing; the table as text, with --out also as files."""
    from advit.comparison import compare, summary, variants_of
    from advit.files import write_json, write_text
    from advit.results import code_version, versions
    from advit.study import default_store
    from advit.tables import Table, decisions

    variants = variants_of(preset(args.preset), args.preset, args.vary)
    code = code_version()
    rows = compare(root, names, variants, args.seeds, default_store(), device, pasted=args.pasted, floors=args.floors,
                   progress=not args.quiet)  # fmt: skip
    size = rows.attrs["pasted_size"]
    judged = f"defects pasted at {size} px on held-out training images" if args.pasted else "the test images"
    caption = f"Variants of preset {args.preset}, seeds {', '.join(map(str, args.seeds))}, judged on {judged}."
    table = Table(summary(rows), caption)
    said = f"Decisions at the threshold that aims at one false alarm in a hundred, means over seeds, on {judged}."
    verdicts = Table(decisions(rows), said)
    if args.out:
        write_text(args.out / "runs.csv", rows.round(6).to_csv(index=False, lineterminator="\n"))
        table.write(args.out, "summary")
        verdicts.write(args.out, "decisions")
        configs = {name: config.to_dict() for name, config in variants.items()}
        data = args.data.resolve().name if args.data else "embedded"
        record = {**code, "device": rows.attrs["device"], "versions": versions(), "data": data, "pasted": args.pasted}
        record |= {"pasted_size": size} if args.pasted else {}
        write_json(args.out / "provenance.json", {**record, "seeds": args.seeds, "variants": configs})
    return f"{caption}\n\n{table.markdown()}\n{said}\n\n{verdicts.markdown()}"
