"""fit: seeded, resumable training on any device."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from advit.augment import augment
from advit.checkpoint import load_checkpoint, optimiser_tensors, restore, save_checkpoint
from advit.config import ADViTConfig
from advit.errors import CheckpointError, TrainingError
from advit.files import write_text
from advit.networks import training_terms
from advit.precision import unit_images
from advit.targets import FOLDS

CHECKPOINT, LOG = "checkpoint.safetensors", "log.jsonl"
SAVE_EVERY_SECONDS = 20
PROBES = 10
READ_EVERY = 16  # steps, on a GPU


def step_generator(seed: int, step: int) -> torch.Generator:
    """The generator of one step: all that is random in a step follows from seed and step number alone.

    So a resumed run draws what an uninterrupted one draws, and every device draws the same (it lives on the CPU).
    """
    return torch.Generator().manual_seed((seed + 1) * 1_000_003 + step)


def batch_order(count: int, batch: int, seed: int, epoch: int) -> list[list[int]]:
    """Shuffled batches of one epoch; a last batch of one image joins the one before it."""
    generator = torch.Generator().manual_seed((seed + 1) * 7_000_003 + epoch)
    order = torch.randperm(count, generator=generator).tolist()
    batches = [order[i : i + batch] for i in range(0, count, batch)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        last = batches.pop()
        batches[-1] += last
    return batches


def total_steps(config: ADViTConfig, count: int) -> int:
    """Optimiser steps of a whole run on ``count`` images."""
    steps = config.epochs * len(batch_order(count, config.batch_size, 0, 0))
    return min(steps, config.max_steps) if config.max_steps else steps


def learning_rate(config: ADViTConfig, step: int, total: int) -> float:
    """Learning rate of a step: constant, or 5 % linear warm-up and a cosine to zero."""
    if config.schedule == "constant":
        return config.learning_rate
    warm = max(1, total // 20)
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def train_step(
    network: nn.Module, optimiser: torch.optim.Optimizer, images: Tensor, generator: torch.Generator, rate: float,
    folds: Tensor | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """One optimiser step on images in [0, 1]; starts from zeroed gradients. Returns the detached terms."""
    config = network.config
    images = augment(images, config.shift, config.brightness, generator)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16"):
        terms = training_terms(network, images, generator, folds)
    terms["total"].backward()
    if config.gradient_clip:
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
    optimiser.step()
    return {name: value.detach() for name, value in terms.items()}


def require_finite(terms: dict[str, float], epoch: int, step: int, names: list[str]) -> None:
    """Stop with the first term that is not finite and the images of the step.

    Raises:
        TrainingError. Test: tests/test_training.py
    """
    for name in [n for n in terms if n != "total"] + ["total"]:
        if not math.isfinite(terms[name]):
            raise TrainingError(
                f"The {name} term became {terms[name]} in epoch {epoch + 1}, step {step + 1}, on: {', '.join(names)}. "
                "Look at these images, or lower the step with --set learning_rate=... or --set gradient_clip=1."
            )


class Pending:
    """Terms of the steps that were not looked at yet: reading a number from a GPU waits until it is idle.

    On a CPU every step is read at once; on other devices several together.
    """

    def __init__(self, device: torch.device) -> None:
        self.limit = 1 if device.type == "cpu" else READ_EVERY
        self.steps: list[tuple[dict[str, Tensor], int, int, list[str]]] = []

    def add(self, terms: dict[str, Tensor], epoch: int, step: int, names: list[str]) -> list[dict[str, float]]:
        """Remember one step; what :meth:`read` gives, when enough of them wait."""
        self.steps.append((terms, epoch, step, names))
        return self.read() if len(self.steps) >= self.limit else []

    def read(self) -> list[dict[str, float]]:
        """Terms of all waiting steps as numbers. Raises TrainingError for the first that is not finite."""
        waiting, self.steps = self.steps, []
        if not waiting:
            return []
        values = torch.stack([torch.stack(list(terms.values())) for terms, *_ in waiting]).tolist()
        found = [dict(zip(terms, row, strict=True)) for (terms, *_), row in zip(waiting, values, strict=True)]
        for terms, (_, epoch, step, names) in zip(found, waiting, strict=True):
            require_finite(terms, epoch, step, names)
        return found


def fit(
    network: nn.Module,
    load: Callable[[list[int]], Tensor],
    names: list[str],
    *,
    seed: int,
    device: torch.device,
    run: Path,
    identity: dict[str, Any],
    resume: bool = False,
    progress: bool = True,
    probe: Callable[[nn.Module], dict[str, float]] | None = None,
) -> None:
    """Train ``network`` in place for its configured length, saving to ``run`` as it goes.

    Args:
        load: indices to a uint8 batch ``(batch, 3, H, H)`` of defect-free training images.
        names: their names, for messages; their number is the size of the training set.
        run: folder of checkpoint and log. A checkpoint is written at the end of an epoch at most every
            20 s, and after the last one.
        identity: what a checkpoint must agree with to be continued (config, seed, data).
        resume: continue from the checkpoint in ``run``; the final weights equal an uninterrupted run's.
        probe: measures the network after about ten of the epochs, the last one included, for the log. Nothing that it
            returns is used.

    Raises:
        TrainingError: on a loss that is not finite. CheckpointError: if ``run`` holds another run's checkpoint.

    Test: tests/test_training.py
    """
    config: ADViTConfig = network.config
    optimiser = torch.optim.Adam(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=device.type != "mps"
    )
    step, epoch, log = 0, 0, []
    if resume:
        tensors, meta = load_checkpoint(run / CHECKPOINT)
        require_identity(meta.get("identity", {}), identity, run)
        restore(network, optimiser, tensors, run / CHECKPOINT)
        step, epoch, log = progress_of(meta, run / CHECKPOINT)
        write_log(run, log)  # a kill between checkpoint and log leaves the log one save behind
    pending = Pending(device)
    total, saved = total_steps(config, len(names)), time.monotonic()
    bar = tqdm(total=total, initial=step, desc="train", unit="step", disable=not progress)
    while step < total:
        network.train()
        sums: dict[str, float] = {}
        batches = batch_order(len(names), config.batch_size, seed, epoch)[: total - step]
        for indices in batches:
            images = unit_images(load(indices), device, config.precision)
            rate, folds = learning_rate(config, step, total), torch.tensor(indices) % FOLDS
            found = train_step(network, optimiser, images, step_generator(seed, step), rate, folds)
            read = pending.add(found, epoch, step, [names[i] for i in indices])
            step += 1
            bar.update()
            if indices is batches[-1]:
                read += pending.read()
            for terms in read:
                sums = {k: sums.get(k, 0.0) + v / len(batches) for k, v in terms.items()}
        epoch += 1
        log.append({"epoch": epoch, "step": step, "learning_rate": rate, **sums})
        if probe is not None and (step >= total or step * PROBES // total > (step - len(batches)) * PROBES // total):
            log[-1] |= probe(network)
        bar.set_postfix({k: f"{v:.3f}" for k, v in sums.items()})
        if step >= total or time.monotonic() - saved > SAVE_EVERY_SECONDS:
            tensors = {f"network.{k}": v for k, v in network.state_dict().items()} | optimiser_tensors(optimiser)
            meta = {"identity": identity, "step": step, "epoch": epoch, "log": log}
            save_checkpoint(run / CHECKPOINT, tensors, meta)
            write_log(run, log)
            saved = time.monotonic()
    bar.close()


def progress_of(meta: dict[str, Any], path: Path) -> tuple[int, int, list[dict[str, Any]]]:
    """Step, epoch and log of a checkpoint. Raises CheckpointError if they are not what training writes."""
    step, epoch, log = (meta.get(key) for key in ("step", "epoch", "log"))
    counts = all(type(n) is int and n >= 0 for n in (step, epoch))
    if not counts or not isinstance(log, list) or not all(isinstance(line, dict) for line in log):
        raise CheckpointError(f"{path} is damaged: it does not say how far training had come. Train again.")
    return step, epoch, log


def write_log(run: Path, log: list[dict[str, Any]]) -> None:
    """The losses of every epoch so far as JSON lines."""
    write_text(run / LOG, "".join(json.dumps(line) + "\n" for line in log))


def require_identity(found: dict[str, Any], wanted: dict[str, Any], run: Path) -> None:
    """Raise CheckpointError naming what differs between a checkpoint and the run that wants to continue it."""
    flat_found, flat_wanted = (flat_identity(x) for x in (found, wanted))
    differing = [k for k in flat_wanted if flat_found.get(k) != flat_wanted[k]]
    if differing:
        detail = ", ".join(f"{k} (there {flat_found.get(k)!r}, now {flat_wanted[k]!r})" for k in sorted(differing))
        raise CheckpointError(f"{run} holds another run: {detail}. Repeat its options, or choose another --out.")


def flat_identity(identity: Any) -> dict[str, Any]:
    """The options of the configuration beside the rest; nothing for what is no identity."""
    found = identity if isinstance(identity, dict) else {}
    config = found.get("config")
    return {**found, **(config if isinstance(config, dict) else {}), "config": None}
