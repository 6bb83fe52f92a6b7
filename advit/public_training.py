"""What the public code's mathematics does, each defect alone in the smallest setting that shows it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from advit.decoder import squash
from advit.discrepancy import symmetric_kl
from advit.losses import reconstruction_loss
from advit.mdn import Mixture, mixture_nll
from advit.vt_adl import VTADL, PublicBlock, public_patch_nll


def route(capsules: Tensor, weight: Tensor, iterations: int = 3) -> tuple[Tensor, Tensor]:
    """Dynamic routing of capsules ``(batch, C, 8)`` to O output capsules of L numbers.

    A coefficient is the softmax of its logit over the O outputs; its logit grows by the agreement of output and vote.

    Args:
        weight: ``(O, C, L, 8)``.

    Returns:
        Output capsules ``(batch, O, L)`` and the last coefficients ``(batch, O, C)``.

    Source: Sabour et al. 2017, procedure 1; the public spatial.py:76 has O = 1. Test: tests/test_public_training.py
    """
    votes = torch.einsum("oclk,bck->bocl", weight, capsules)
    logits = torch.zeros_like(votes[..., 0])
    for _ in range(iterations):
        coefficients = logits.softmax(dim=1)
        output = squash(torch.einsum("boc,bocl->bol", coefficients, votes))
        logits = logits + torch.einsum("bol,bocl->boc", output, votes)
    return output, coefficients


def fit_two_clusters(density: str, steps: int = 800, count: int = 100) -> dict[str, np.ndarray]:
    """Fit two Gaussians to clusters of sd 0.5 at -4 and +4 with one of two densities; float64, no randomness.

    Args:
        density: "likelihood", -log sum_k pi_k N(z; mu_k, var_k), or "public", sum_k pi_k NLL_k with softplus(s) as
            log-variance.
        steps: of Adam, from equal weights, means -1 and 0.5, and (log-)variance parameters 0.

    Returns:
        ``weight``, ``mean`` and ``sd`` of the two components, ``(2,)`` each, ordered by mean.

    Test: tests/test_public_training.py
    """
    quantiles = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    data = torch.cat([0.5 * quantiles - 4, 0.5 * quantiles + 4])[:, None, None]  # (2 count, one patch, one dimension)
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    mean = torch.tensor([-1.0, 0.5], dtype=torch.float64, requires_grad=True)
    raw = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([logits, mean, raw], lr=0.05)
    log_variance = (lambda: F.softplus(raw)) if density == "public" else (lambda: raw)
    for _ in range(steps):
        optimiser.zero_grad()
        log_weight = logits.log_softmax(dim=0)
        if density == "public":
            nll = public_patch_nll(data, log_weight, mean, log_variance())
        else:
            nll = mixture_nll(data, Mixture(log_weight, mean[:, None], log_variance()[:, None]))
        nll.mean().backward()
        optimiser.step()
    found = {"weight": logits.softmax(dim=0), "mean": mean, "sd": (0.5 * log_variance()).exp()}
    order = mean.detach().argsort()
    return {name: value.detach()[order].numpy() for name, value in found.items()}


def encoder_gradients(network: VTADL, images: Tensor, seed: int = 0) -> dict[str, float]:
    """Norm of what each term of the public objective sends to the encoder: ``density`` and ``reconstruction``.

    Source: the public train.py:74, mdn1.py:96 (a sum over patches and dimensions). Test: tests/test_public_training.py
    """
    out = network.train()(images, torch.Generator().manual_seed(seed))
    terms = {
        "density": out.patch_nll.sum(dim=1).mean(),
        "reconstruction": reconstruction_loss(images, out.reconstruction, 5.0, 0.5)[0],
    }
    outside = ("capsule", "decoder", "density")
    encoder = [p for name, p in network.named_parameters() if not name.startswith(outside)]
    gradients = {name: torch.autograd.grad(term, encoder, retain_graph=True, allow_unused=True)
                 for name, term in terms.items()}  # fmt: skip
    return {name: norm_of(found) for name, found in gradients.items()}


def density_training(
    network: VTADL, images: Tensor, *, zero_density: bool, steps: int = 6, learning_rate: float = 1e-4
) -> list[tuple[float, float]]:
    """Adam steps on one batch with the density term: loss and norm of the density network's gradient before each step.

    The reconstruction, whose gradient is a millionth (:func:`encoder_gradients`), and the noise are left out.

    Args:
        zero_density: False as in the public code, which zeroes the gradients of the autoencoder only, though its
            optimiser also owns the density network: there they add up over all steps.

    Source: the public train.py:49,62. Test: tests/test_public_training.py
    """
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate, weight_decay=1e-4)
    own = list(network.density.parameters())
    history = []
    for _ in range(steps):
        kept = [] if zero_density else [p.grad for p in own]
        network.zero_grad(set_to_none=True)
        for p, gradient in zip(own, kept, strict=False):
            p.grad = gradient
        encoded = network.encode(images)
        loss = public_patch_nll(encoded, *network.density(encoded)).sum(dim=1).mean()
        loss.backward()
        history.append((loss.item(), norm_of([p.grad for p in own])))
        optimiser.step()
    return history


def norm_of(tensors: Sequence[Tensor | None]) -> float:
    """Euclidean norm of all entries together."""
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors if t is not None))


@torch.no_grad()
def attention_entropy(block: PublicBlock, tokens: Tensor, scale: float) -> float:
    """Mean entropy in nats of the attention rows of ``tokens (batch, N, d)`` at this scale; log N if all are equal.

    Source: the public student_transformer.py:41 has d^-1/2. Test: tests/test_public_training.py
    """
    qkv = block.qkv(block.attention_norm(tokens))
    q, k, _ = rearrange(qkv, "b n (three m d) -> three b m n d", three=3, m=block.heads)
    log_rows = (q @ k.transpose(-1, -2) * scale).log_softmax(dim=-1)
    return float(-(log_rows.exp() * log_rows).sum(dim=-1).mean())


def discrepancy_on_a_line(sigma: float, positions: int = 100, eps: float = 1e-4) -> dict[str, float]:
    """Discrepancy of a Gaussian prior on a line and a uniform series-association, mean of the positions, in nats.

    ``KL(S || P)`` and ``symmetric``, each exact and "with eps in the logs"; "symmetric, smoothed" instead mixes both
    with that share of the uniform association, so that rows still sum to 1.

    Source: thuml/Anomaly-Transformer solver.py:13 has eps in the logs. Test: tests/test_public_training.py
    """
    axis = torch.arange(positions, dtype=torch.float64)
    log_prior = (-(axis[:, None] - axis).square() / (2 * sigma**2)).log_softmax(dim=-1)  # exp underflows, its log not
    prior, series = log_prior.exp(), torch.full_like(log_prior, 1 / positions)
    exact = series.log() - log_prior
    added = (series + eps).log() - (prior + eps).log()
    values = {
        "KL(S || P)": series * exact,
        "KL(S || P), eps in the logs": series * added,
        "symmetric": (series - prior) * exact,
        "symmetric, eps in the logs": (series - prior) * added,
        "symmetric, smoothed": symmetric_kl(prior, series, eps)[:, None],
    }
    return {name: float(value.sum(dim=-1).mean()) for name, value in values.items()}
