"""Checkpoints without pickle: tensors in safetensors, everything else in its JSON header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from advit.errors import CheckpointError
from advit.files import atomic


def save_checkpoint(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write tensors and a JSON-able ``meta`` to one file, whole or not at all. Test: tests/test_files.py"""
    flat = {k: v.detach().to("cpu").contiguous() for k, v in tensors.items()}
    with atomic(path) as temporary:
        try:
            save_file(flat, temporary, metadata={"advit": json.dumps(meta)})
        except SafetensorError as error:
            raise OSError(str(error)) from error


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_checkpoint` wrote.

    Raises:
        CheckpointError: if the file is missing, damaged or not written by advit.

    Test: tests/test_files.py
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as f:
            meta = json.loads((f.metadata() or {})["advit"])
            return {k: f.get_tensor(k) for k in f.keys()}, meta  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"No checkpoint at {path}. Train first: 'advit train -p CATEGORY --data ROOT'.") from None
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or was not written by advit ({error}). Train again.") from None


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an Adam optimiser as named tensors, ``optimiser.<parameter number>.<what>``."""
    state = optimiser.state_dict()["state"]
    return {f"optimiser.{i}.{k}": torch.as_tensor(v) for i, s in state.items() for k, v in s.items()}


def restore(
    network: nn.Module, optimiser: torch.optim.Optimizer | None, tensors: dict[str, Tensor], path: Path
) -> None:
    """Load weights, and the optimiser's state if one is given.

    Raises:
        CheckpointError: if names or shapes are those of another configuration.

    Test: tests/test_files.py
    """
    weights = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise CheckpointError(f"{path} belongs to another configuration: {first}") from None
    if optimiser is None:
        return
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, index, what = key.split(".")
            state.setdefault(int(index), {})[what] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
