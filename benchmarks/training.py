"""Training steps and scoring: the presets, the public computation written literally, and fine patches."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advit.augment import augment
from advit.config import ADViTConfig
from advit.detector import PARTS
from advit.networks import build_network, fit_target
from advit.precision import resolve_precision
from advit.presets import PRESETS
from advit.scoring import score_batch
from advit.training import step_generator, train_step
from benchmarks.literal_vt_adl import LiteralVTADL, literal_step

CPU = torch.device("cpu")


def sized(preset: str, **options: Any) -> ADViTConfig:
    """A preset with options changed and its precision resolved."""
    config = replace(PRESETS[preset], **options)
    return replace(config, precision=resolve_precision(config.precision, CPU))


def smooth_images(config: ADViTConfig, batch: int) -> Tensor:
    """Seeded images in [0, 1] with structure at many scales, ``(batch, 3, H, H)``."""
    g = torch.Generator().manual_seed(1)
    side, total = config.image_size, 0
    for cells in (4, 16, 64):
        noise = torch.rand(batch, 3, cells, cells, generator=g)
        total = total + F.interpolate(noise, size=(side, side), mode="bilinear") / 3
    return total


def network_of(config: ADViTConfig) -> nn.Module:
    """The network with its target fitted."""
    network = build_network(config, 0)
    pixels = (255 * smooth_images(config, 8)).to(torch.uint8)
    fit_target(network, lambda indices: pixels[indices], len(pixels))
    return network


def our_steps(network: nn.Module, images: Tensor) -> Callable[[], list[float]]:
    """A function that makes the next training step and returns the losses of reconstruction and density."""
    config, step = network.config, 0
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4, weight_decay=config.weight_decay, fused=True)
    network.train()

    def run() -> list[float]:
        nonlocal step
        terms = train_step(network, optimiser, images, step_generator(0, step), 1e-4)
        step += 1
        reconstruction = config.mse_weight * terms["mse"] - config.ssim_weight * terms["ssim"]
        return [float(reconstruction), float(terms["density"])]

    return run


def literal_steps(ours: nn.Module, images: Tensor) -> Callable[[], list[float]]:
    """The same for the literal computation, from the same weights, with the same noise."""
    network, step = LiteralVTADL(ours).train(), 0
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4, weight_decay=ours.config.weight_decay)

    def run() -> list[float]:
        nonlocal step
        generator = step_generator(0, step)
        losses = literal_step(network, optimiser, augment(images, 0, 0.0, generator), generator)
        step += 1
        return losses

    return run


def our_scores(network: nn.Module, images: Tensor, wanted: Collection[str] = ()) -> Callable[[], Any]:
    """Scores of all images in one batch: those named, else those that the configured map needs."""
    network.eval()
    return lambda: score_batch(network, images, wanted=wanted or PARTS[network.config.score])


def steps_of(literal: bool, steps: int, preset: str = "vt_adl", **options: Any) -> Callable[[], list[list[float]]]:
    """For the worker: the losses of some steps."""
    config = sized(preset, **options)
    network = network_of(config)
    images = smooth_images(config, config.batch_size).to(next(network.parameters()).dtype)
    run = (literal_steps if literal else our_steps)(network, images)
    return lambda: [run() for _ in range(steps)]


CASES: dict[str, Any] = {"steps": steps_of}
