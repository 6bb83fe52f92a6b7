"""What each phase of the minimax objective moves, as gradients."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import torch
from torch import Tensor, nn

from advit.config import ADViTConfig
from advit.discrepancy import minimax_discrepancy
from advit.networks import build_network, fit_target
from advit.precision import unit_images

GROUPS = ("prior: sigma", "series: Q and K", "values: V", "earlier layers")


def fresh_network(config: ADViTConfig, seed: int, images: Tensor) -> nn.Module:
    """An untrained network whose pixel target is fitted to ``images`` (n, 3, H, H) uint8."""
    network = build_network(config, seed)
    fit_target(network, lambda indices: images[indices], len(images))
    return network


def phase_gradients(network: nn.Module, pixels: Tensor) -> pd.DataFrame:
    """Gradient of the last layer's discrepancy in each phase, by what it reaches.

    Rows: the phases ``minimise`` (lambda AD(P, sg S), moves the prior), ``maximise`` (-lambda AD(sg P, S), moves the
    series-association) and ``both``. Columns: Euclidean norm of the gradient with respect to the last layer's map to
    sigma, its maps to queries and keys, its map to values, and all earlier layers, at lambda = 1, in nats per unit.

    Sigma, queries and keys all follow from the tokens, so that either phase also reaches the earlier layers.

    Args:
        pixels: ``(batch, 3, H, H)`` uint8.

    Source: Anomaly Transformer, eq. 5. Test: tests/test_phases.py
    """
    config = network.config
    images = unit_images(pixels, next(network.parameters()).device, config.precision)
    rows = []
    for phase in ("minimise", "maximise", "both"):
        network.zero_grad(set_to_none=True)
        last = network.encode(images)[1][-1:]
        minimax_discrepancy(last, config.smoothing_eps, phase).backward()
        rows.append({"phase": phase, **{name: norm(parts) for name, parts in gradient_groups(network)}})
    network.zero_grad(set_to_none=True)
    return pd.DataFrame(rows)


def gradient_groups(network: nn.Module) -> Iterator[tuple[str, list[Tensor | None]]]:
    """Gradients by what they move, in the order of GROUPS."""
    attention = network.layers[-1].attention
    qkv = attention.to_qkv.weight.grad
    q, k, v = (None, None, None) if qkv is None else qkv.chunk(3)
    earlier = [p.grad for layer in network.layers[:-1] for p in layer.parameters()]
    yield from zip(GROUPS, ([attention.to_sigma.weight.grad], [q, k], [v], earlier), strict=True)


def norm(parts: list[Tensor | None]) -> float:
    """Euclidean norm of all gradients together; 0.0 where there is none."""
    return float(torch.sqrt(sum((g.double().square().sum() for g in parts if g is not None), torch.zeros(()))))
