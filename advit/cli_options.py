"""Options and choices that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from advit.errors import ConfigError

if TYPE_CHECKING:
    import torch


def out_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of results/ and figures/ (default: .)")


def data_option(parser: argparse.ArgumentParser, default: str = "default: the embedded synthetic data") -> None:
    parser.add_argument(
        "--data", type=folder, metavar="ROOT", help=f"folder of categories in MVTec AD, BTAD or plain layout; {default}"
    )


def folder(text: str) -> Path:
    """A path as typed, ~ included."""
    return Path(text).expanduser()


def device_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def pick_device(name: str) -> torch.device:
    """The torch device of this name; auto takes CUDA, then MPS, then the CPU."""
    import torch

    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from None
    return device


def chosen_categories(root: Path, names: Sequence[str] | None) -> list[str]:
    """The categories named, or all of the root's for 'all'. Raises ConfigError if none was named."""
    from advit.data import list_categories

    known = list_categories(root)
    if not names:
        raise ConfigError(f"Name a category with -p: {', '.join(known)}, or all.")
    return known if list(names) == ["all"] else list(dict.fromkeys(names))
