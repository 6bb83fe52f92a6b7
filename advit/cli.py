"""The command line: ``advit train``, ``evaluate``, ``localize``, ``export``, ``reproduce``, ``verify``, ``data``..."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from math import isfinite
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from advit.allocator import keep_freed_memory
from advit.cli_data import add_data_commands, command_data
from advit.cli_options import chosen_categories, data_option, device_options, pick_device
from advit.cli_reproduce import add_reproduce_commands, command_report, command_reproduce, command_verify
from advit.cli_study import add_study_command, run_study
from advit.config import CHOICES, ADViTConfig, parse_options, with_options
from advit.errors import AdvitError, ConfigError, nearest
from advit.presets import PRESETS, preset

if TYPE_CHECKING:
    from advit.samples import Category

TRAIN_EXAMPLES = """examples:
  advit train -p gear                         the embedded synthetic data, in minutes on a CPU
  advit train -p bottle --data mvtec          one category of a folder in MVTec AD layout
  advit train -p all --data mvtec --seed 1    every category, into runs/<category>-quick-seed1
  advit train -p bottle --data mvtec --set components=10 --set minimax=none --out runs/no-minimax
  advit train -p bottle --data mvtec --resume continue after an interruption, to the same weights

writes into --out: config.json, log.jsonl (losses per epoch), checkpoint.safetensors, calibration.safetensors,
training.json (when and where the weights were made), metrics.json (with commit, versions, device, seed, data digest),
scores.csv, contact_sheet.png, example.npz (the defect of median score, for figures)"""


EXPORT_EXAMPLES = """examples:
  advit export runs/bottle-quick-seed0 --format mvtec --out maps
  advit export runs/all --out maps            every run in runs/all, one per category

writes DIR/CATEGORY/test/DEFECT/IMAGE.tiff: float, in the size of the image, high where abnormal. That is what MVTec
AD's published evaluation code reads:
  python evaluate_experiment.py --dataset_base_dir mvtec --anomaly_maps_dir maps --evaluated_objects bottle"""


EVALUATE_EXAMPLES = """examples:
  advit evaluate runs/bottle-quick-seed0                          the same metrics, scores and contact sheet again
  advit evaluate runs/bottle-quick-seed0 --data other -p bottle   new images of the same product

weights and thresholds stay those of the run; nothing is fitted to the images that are judged"""


CLOSER = PRESETS["advit"]
GLANCE = 5  # photographs whose size is looked at
OUT_OF_MEMORY = re.compile("can't allocate memory|out of memory")


def build_parser() -> argparse.ArgumentParser:
    """Every command with its options. Test: tests/test_runs.py"""
    parser = argparse.ArgumentParser(
        prog="advit",
        description="ADViT: a vision transformer with association discrepancy for image anomaly detection.",
        epilog="'advit COMMAND --help' explains a command with examples. Start with: advit train -p gear",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter}

    train = commands.add_parser("train", help="train and evaluate, one run per category", epilog=TRAIN_EXAMPLES, **raw)
    train.add_argument("-p", "--category", nargs="+", metavar="CATEGORY", help="one or more categories, or 'all'")
    data_option(train)
    train.add_argument("--preset", default="quick", metavar="NAME", help=f"{', '.join(PRESETS)} (default: quick)")
    train.add_argument("--seed", type=int, default=0, help="of weights, order, masks and noise (default: 0)")
    train.add_argument("--epochs", type=int, help="passes over the training images; lifts the preset's step limit")
    train.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: runs/CATEGORY-PRESET-seedN)")
    train.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="change an option of the preset; repeatable"
    )
    train.add_argument("--help-options", action=PrintOptions, help="list every OPTION of --set, and exit")
    train.add_argument("--resume", action="store_true", help="continue the run in --out, if there is one")
    device_options(train)

    evaluate = commands.add_parser(
        "evaluate", help="evaluate a finished run again, also on other data", epilog=EVALUATE_EXAMPLES, **raw
    )
    evaluate.add_argument("run", type=Path, metavar="DIR", help="a run folder of 'advit train'")
    evaluate.add_argument("-p", "--category", metavar="CATEGORY", help="default: the category trained on")
    data_option(evaluate, "default: the data trained on")
    evaluate.add_argument("--out", type=Path, help="where to write (default: DIR; other data: DIR/evaluations/...)")
    device_options(evaluate)

    localize = commands.add_parser(
        "localize", help="anomaly maps, overlays and decisions for images of your own", **raw,
        epilog="example: advit localize runs/bottle-quick-seed0 photos/ part7.png --out found\n\n"
        "writes for each image NAME_overlay.png and NAME_map.tiff (float, the image's size), and scores.csv with\n"
        "score and decision at the threshold that was calibrated on defect-free training images. It aims at one false\n"
        "alarm in a hundred; to find more at the price of more, score sound images first and pass --threshold, for\n"
        "instance the score that one in twenty of them exceeds",
    )  # fmt: skip
    localize.add_argument("run", type=Path, metavar="DIR", help="a run folder of 'advit train'")
    localize.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER")
    localize.add_argument("--out", type=Path, required=True, help="folder for overlays, maps and scores.csv")
    localize.add_argument(
        "--threshold", type=finite, metavar="SCORE", help="image score above which it is anomalous (default: the run's)"
    )
    device_options(localize)

    add_export_command(commands)
    add_reproduce_commands(commands)
    study = add_study_command(commands)
    data_option(study)
    device_options(study)
    add_data_commands(commands.add_parser("data", help="check, download or make data", **raw))
    return parser


def finite(text: str) -> float:
    """A number of the command line that is neither infinite nor NaN."""
    value = float(text)
    if not isfinite(value):
        raise ValueError(text)
    return value


def add_export_command(commands: Any) -> None:
    export = commands.add_parser(
        "export", help="anomaly maps of the test images, for other evaluation scripts", epilog=EXPORT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    export.add_argument("run", type=Path, metavar="RUN_OR_DIR", help="a run of 'advit train', or a folder of runs")
    export.add_argument("--format", default="mvtec", metavar="NAME", help="mvtec: MVTec AD's evaluation (default)")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the maps")
    data_option(export, "default: the data trained on")
    device_options(export)


class PrintOptions(argparse.Action):
    """``--help-options``: every configuration option with its default in each preset."""

    def __init__(self, option_strings: list[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        names = list(PRESETS)
        print(f"{'option':20}" + "".join(f"{n:>10}" for n in names) + "  meaning")
        for f in fields(ADViTConfig):
            values = "".join(f"{getattr(PRESETS[n], f.name):>10}" for n in names)
            choices = f" [{', '.join(CHOICES[f.name])}]" if f.name in CHOICES else ""
            print(f"{f.name:20}{values}  {f.metadata['help']}{choices}")
        parser.exit()


def run_config(args: argparse.Namespace) -> ADViTConfig:
    """Preset, then --epochs, then --set."""
    config = preset(args.preset)
    if args.epochs is not None:
        config = replace(config, epochs=args.epochs, max_steps=0)
    return with_options(config, parse_options(args.set))


def metrics_line(name: str, metrics: dict[str, Any]) -> str:
    """One printed line of metrics, full names."""
    keys = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro_0.3": "AU-PRO 0.3"}
    if "image_auroc" not in metrics:
        return f"{name:16} no test images: trained and calibrated only"
    cells = [f"{label} {'-' if metrics[k] is None else format(metrics[k], '.3f')}" for k, label in keys.items()]
    return f"{name:16} " + "   ".join(cells)


def print_warnings(root: Path, names: Sequence[str]) -> None:
    """What is not read of the categories, such as a photo in a format that is not known."""
    from advit.data import scan_category

    for name in names:
        for line in scan_category(root, name).warnings:
            print(f"advit: warning: {line}", file=sys.stderr)


def print_closer(category: Category, config: ADViTConfig) -> None:
    """Say so if the photographs show more than the configuration looks at, and preset advit would look closer."""
    from advit.images import read_image

    if config.image_size * 2 > CLOSER.image_size or config.model != CLOSER.model:
        return
    side = int(median(min(read_image(sample.path).shape[-2:]) for sample in category.train[:GLANCE]))
    if side >= CLOSER.image_size:
        print(
            f"advit: {category.name} has photographs of {side} px, and {config.image_size} px are looked at. "
            f"--preset advit looks at {CLOSER.image_size} px: sharper maps (README), in about twice the time.",
            file=sys.stderr,
        )


def command_train(args: argparse.Namespace) -> None:
    from advit.data import open_category
    from advit.remains import sweep
    from advit.runs import train_run
    from advit.synthetic import embedded_root

    config, device = run_config(args), pick_device(args.device)
    root = args.data or embedded_root()
    names = chosen_categories(root, args.category)
    categories = [open_category(root, name) for name in names]
    print_warnings(root, names)
    for category in categories:
        out = args.out or Path("runs") / f"{category.name}-{args.preset}-seed{args.seed}"
        if args.out and len(categories) > 1:
            out = args.out / category.name
        sweep(out)
        if args.preset == "quick" and not args.quiet and not args.resume:
            print_closer(category, config)
        metrics = train_run(
            category, config, seed=args.seed, out=out, device=device, preset=args.preset, resume=args.resume,
            progress=not args.quiet,
        )  # fmt: skip
        print(metrics_line(category.name, metrics))
        print(f"{'':16} {out / 'metrics.json'}, {out / 'contact_sheet.png'}")


def command_evaluate(args: argparse.Namespace) -> None:
    from advit.data import data_digest, open_category
    from advit.runs import evaluate_run, read_config

    stored = read_config(args.run)
    category = open_category(args.data or Path(stored["data_root"]), args.category or stored["category"])
    out = args.out
    if out is None and data_digest(category) != stored["data_digest"]:
        out = args.run / "evaluations" / f"{category.name}-{data_digest(category)[:8]}"
    metrics = evaluate_run(args.run, category, pick_device(args.device), out=out, progress=not args.quiet)
    print(metrics_line(category.name, metrics))
    print(f"{'':16} {(out or args.run) / 'metrics.json'}")


def command_localize(args: argparse.Namespace) -> None:
    from advit.localize import localize
    from advit.runs import load_run

    device = pick_device(args.device)
    detector, _ = load_run(args.run, device)
    if args.threshold is not None:
        detector = replace(detector, threshold=args.threshold)
    rows = localize(detector, args.images, args.out, device, progress=not args.quiet)
    for row in rows:
        name = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in row["image"])
        print(f"{row['decision']:10} {row['score']:>12}  {name}")
    print(f"{sum(r['decision'] == 'anomalous' for r in rows)} of {len(rows)} anomalous; {args.out / 'scores.csv'}")


def command_export(args: argparse.Namespace) -> None:
    from advit.export import FORMATS, export

    if args.format not in FORMATS:
        known = ", ".join(FORMATS)
        raise ConfigError(f"--format {args.format}: known is {known}.{nearest(args.format, FORMATS)}")
    for name, root, count in export(args.run, args.out, pick_device(args.device), data=args.data,
                                    progress=not args.quiet):  # fmt: skip
        print(f"{name:16} {count} maps in {args.out / name / 'test'}; ground truth in {root}")


def command_study(args: argparse.Namespace) -> None:
    from advit.synthetic import embedded_root

    root = args.data or embedded_root()
    print(run_study(args, root, chosen_categories(root, args.category or ["all"]), pick_device(args.device)))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit status: 0, 1 for an error with a message, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files may be any bytes
    args = build_parser().parse_args(argv)
    keep_freed_memory()
    commands = {
        "train": command_train,
        "evaluate": command_evaluate,
        "localize": command_localize,
        "export": command_export,
        "reproduce": command_reproduce,
        "study": command_study,
        "report": command_report,
        "verify": command_verify,
        "data": command_data,
    }
    try:
        return commands[args.command](args) or 0
    except AdvitError as error:
        print(f"advit: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        print("advit: there is not enough memory. Lower --set batch_size=N or image_size=N.", file=sys.stderr)
        return 1
    except BrokenPipeError:  # '| head' has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"advit: {error.filename}: {error.strerror}. Check the path and its permissions.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        how = "'advit train ... --resume'" if args.command == "train" else "the same command"
        print(f"\nadvit: interrupted. What was finished is kept; {how} continues.", file=sys.stderr)
        return 130
