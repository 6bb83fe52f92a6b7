"""``advit reproduce``, ``report`` and ``verify``: the notebooks and what they write."""

from __future__ import annotations

import argparse
from typing import Any

from advit.cli_options import data_option, device_options, out_option, pick_device
from advit.errors import ConfigError

REPRODUCE_EXAMPLES = """examples:
  advit reproduce                             embedded data, profile quick: 20 to 40 minutes on 2 cores
  advit reproduce --data mvtec -p bottle      the same notebooks on a real category
  advit reproduce --profile paper --data mvtec -p bottle          the public setting: 50 runs, on a GPU
  advit reproduce --notebooks 05              one notebook and the runs it needs

Runs are stored under runs/store and trained once; an interrupted reproduction continues where it stopped. writes
results/NAME (executed notebooks, tables as CSV, Markdown and LaTeX, one record per run, report/index.html) and
figures/NAME (SVG and PNG). notebooks/ is never changed. A cell that fails stops it, with exit status 1."""

REPORT_EXAMPLES = """example: advit report --name quick

writes results/quick/report/index.html from what 'advit reproduce' left in results/quick and figures/quick, without
training or running anything; it opens without a server or a network"""

VERIFY_EXAMPLES = """example: advit verify

trains tiny models in float64 for two or three minutes, in runs/verify, and says of each table whether it is that of
results/smoke: to the byte with the same versions and family of CPU, within 0.002 elsewhere; exit status 1 if not so.
It says whether this machine computes what ours did, and nothing about how good a model is"""


def add_reproduce_commands(commands: Any) -> None:
    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    reproduce = commands.add_parser(
        "reproduce", help="every table and figure of this repository", epilog=REPRODUCE_EXAMPLES, **raw
    )
    reproduce.add_argument("-p", "--category", nargs="+", metavar="CATEGORY", help="default: all")
    data_option(reproduce)
    reproduce.add_argument("--profile", default="quick", help="smoke, quick or paper (default: quick)")
    reproduce.add_argument("--name", help="of the folders in results/ and figures/ (default: PROFILE, or PROFILE-ROOT)")
    reproduce.add_argument("--seeds", type=int, nargs="+", default=[], metavar="SEED", help="default: the profile's")
    reproduce.add_argument("--notebooks", nargs="+", default=[], metavar="NN", help="only these, for instance 03 05")
    out_option(reproduce)
    device_options(reproduce)

    report = commands.add_parser(
        "report", help="an HTML site of executed notebooks, tables and figures", epilog=REPORT_EXAMPLES, **raw
    )
    report.add_argument("--name", default="quick", help="of the folder in results/ (default: quick)")
    out_option(report)

    verify = commands.add_parser(
        "verify", help="run profile smoke anew and compare with the committed tables", epilog=VERIFY_EXAMPLES, **raw
    )
    out_option(verify)
    verify.add_argument("--quiet", action="store_true", help="no progress bars")


def command_reproduce(args: argparse.Namespace) -> None:
    from advit.reproduce import make_job, reproduce

    names = [] if args.category in (None, ["all"]) else args.category
    job = make_job(args.profile, args.data, names, args.seeds, args.name or "", args.out)
    for line in reproduce(job, pick_device(args.device), args.notebooks, progress=not args.quiet):
        print(line, flush=True)


def command_report(args: argparse.Namespace) -> None:
    from advit.report import build_report

    results = args.out / "results" / args.name
    if not (results / "notebooks").is_dir():
        raise ConfigError(f"{results} holds no results: run 'advit reproduce' first, or name others with --name.")
    print(build_report(results, args.out / "figures" / args.name, results / "report", f"advit: {args.name}"))


def command_verify(args: argparse.Namespace) -> int:
    from advit.verify import verify

    same = True
    for line, good in verify(args.out, progress=not args.quiet):
        print(line, flush=True)
        same &= good
    return 0 if same else 1
