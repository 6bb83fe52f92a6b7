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
from advit.files import atomic, require_regular


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
        require_regular(path)
        with safe_open(path, framework="pt", device="cpu") as f:
            meta = json.loads((f.metadata() or {})["advit"])
            if not isinstance(meta, dict):
                raise TypeError(f"its header is {type(meta).__name__}")
            return {k: f.get_tensor(k) for k in f.keys()}, meta  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"No checkpoint at {path}. Train first: 'advit train -p CATEGORY --data ROOT'.") from None
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError, OSError) as error:
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
    require_shapes(network, tensors, path)
    network.load_state_dict(network_weights(tensors))
    if optimiser is None:
        return
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    try:
        for key, value in tensors.items():
            if key.startswith("optimiser."):
                _, index, what = key.split(".")
                if value.shape not in (torch.Size([]), parameters[int(index)].shape):
                    raise ValueError(f"{key} has the shape {tuple(value.shape)}")
                state.setdefault(int(index), {})[what] = value
        if any(set(s) != {"step", "exp_avg", "exp_avg_sq"} for s in state.values()):
            raise ValueError("moments are missing")
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"{path} is damaged: the optimiser's state cannot be used ({error}).") from None
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def network_weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the network under their names in it."""
    return {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}


def require_shapes(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Check names, shapes and values of a network's weights without touching it; it may be on torch's meta device.

    Raises:
        CheckpointError: if one is missing, too much, of another shape, or not finite.
    """
    found, wanted = network_weights(tensors), network.state_dict()
    wrong = [f"{k} is missing" for k in wanted if k not in found] + [
        f"{k} is unknown" for k in found if k not in wanted
    ]
    wrong += [
        f"size mismatch for {k}: there {tuple(found[k].shape)}, now {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in found and found[k].shape != v.shape
    ]
    if wrong:
        raise CheckpointError(f"{path} belongs to another configuration: {wrong[0]}. Train again.")
    if broken := [k for k, v in found.items() if v.is_floating_point() and not v.isfinite().all()]:
        raise CheckpointError(f"{path} is damaged: {broken[0]} is not finite. Train again.")
