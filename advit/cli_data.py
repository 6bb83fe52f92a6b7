"""``advit data``: check, make or download data."""

from __future__ import annotations

import argparse
from pathlib import Path

CHECK_EXAMPLES = """example: advit data check /path/to/mvtec -p bottle screw

prints a line per category (training and test images, masks, sizes, errors) and every file that cannot be
used, with the reason; layouts: MVTec AD, BTAD, and plain folders of good images"""

SYNTH_EXAMPLES = """examples:
  advit data synth data/synthetic             connector, gear, terrazzo and weave, as in the reported results
  advit data synth data/seed7 --seed 7        other images and defects of the same products, to choose options on

writes MVTec AD layout with exact masks; the same seed gives the same files to the byte"""

DOWNLOAD_EXAMPLES = """example: advit data download mvtec --out data

continues an interrupted download, compares the archive's checksum, prints the licence, and extracts nothing outside
the folder; mvtec: CC BY-NC-SA 4.0, not for commercial use"""


def add_data_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="data_command", required=True, metavar="COMMAND")
    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    check = commands.add_parser(
        "check", help="table of counts, sizes and problems; exit 1 on errors", epilog=CHECK_EXAMPLES, **raw
    )
    check.add_argument("root", type=Path, metavar="ROOT", help="folder of categories")
    check.add_argument("-p", "--category", nargs="+", metavar="CATEGORY", help="default: all")
    synth = commands.add_parser("synth", help="write the embedded synthetic data set", epilog=SYNTH_EXAMPLES, **raw)
    synth.add_argument("out", type=Path, metavar="OUT", help="folder for the categories; made if missing")
    synth.add_argument("--seed", type=int, default=0, help="0, the default: that of the reported results")
    download = commands.add_parser(
        "download", help="fetch an official archive, check and extract it", epilog=DOWNLOAD_EXAMPLES, **raw
    )
    download.add_argument("name", metavar="mvtec|btad", help="which archive")
    download.add_argument("--out", type=Path, default=Path("data"), help="folder to extract into (default: data)")
    download.add_argument("--url", metavar="URL", help="another address of the same archive, if the official one moved")


def command_data(args: argparse.Namespace) -> int | None:
    if args.data_command == "check":
        from advit.data import list_categories
        from advit.data_check import check_category, check_table, has_errors

        names = args.category or list_categories(args.root)
        reports = [check_category(args.root, name, progress=True) for name in names]
        print(check_table(reports).to_string())
        for report in reports:
            for kind, lines in (("error", report.errors), ("warning", report.warnings)):
                for line in lines:
                    print(f"{kind}: {report.name}: {line}")
        return 1 if has_errors(reports) else 0
    if args.data_command == "synth":
        from advit.synthetic import write_dataset

        print(write_dataset(args.out, args.seed, progress=True))
    else:
        from advit.data_download import download, find_archive

        archive = find_archive(args.name)
        print(f"{archive.title}, licence: {archive.licence}\nPlease cite {archive.citation}.")
        print(download(archive, args.out, url=args.url))
    return None
