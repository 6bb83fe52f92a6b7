"""Gaussian mixture density network: mixture parameters from features, and the likelihood of a vector."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from advit.precision import full_precision


@dataclass(frozen=True)
class Mixture:
    """Parameters of a mixture of K Gaussians with diagonal covariance in D dimensions, one per patch.

    ``log_weight``: ``(batch, N, K)``, logsumexp over K is 0. ``mean`` and ``log_variance``: ``(batch, N, K, D)``.
    """

    log_weight: Tensor
    mean: Tensor
    log_variance: Tensor

    def marginal(self, count: int) -> Mixture:
        """The mixture of the first ``count`` dimensions alone: with diagonal covariances the others just drop out.

        Test: tests/test_eq_mdn.py
        """
        return Mixture(self.log_weight, self.mean[..., :count], self.log_variance[..., :count])


def expected_nll(mixture: Mixture) -> Tensor:
    """What a mixture expects the NLL of its own samples to be, at most, in nats: ``(batch, N)``.

    sum_k pi_k (-log pi_k + 1/2 sum_d (1 + log 2 pi + log var_kd)): the mean entropy of the Gaussians plus that of the
    weights. It is the entropy -E[log p] itself for K = 1 and for Gaussians that do not overlap, else an upper bound.
    NLL minus this is the surprise: where the mixture is right 0 on average (or a little less, if Gaussians overlap),
    however uncertain it is.

    Source: Huber et al. 2008, eq. 8 (upper bound on a mixture's entropy). Test: tests/test_eq_mdn.py
    """
    entropy = 0.5 * (1 + math.log(2 * math.pi) + mixture.log_variance).sum(dim=-1)
    return (mixture.log_weight.exp() * (entropy - mixture.log_weight)).sum(dim=-1)


def mixture_nll(target: Tensor, mixture: Mixture, most_deviation: float = 0.0) -> Tensor:
    """Negative log-likelihood -log sum_k pi_k N(z; mu_k, diag var_k) of every patch, in nats.

    Args:
        target: z, ``(batch, N, D)``.
        mixture: parameters for the same patches.
        most_deviation: of every number, (z - mu)^2 / var counts as at most this squared; 0 for no limit. One number
            that is far out then does not outweigh all others, and a strong defect spreads less far around itself.

    Returns:
        ``(batch, N)``; all constants kept, so values of two models can be compared.

    Differs: the public code sums pi_k times the negative log of each Gaussian (an upper bound that a
    one-hot pi minimises), uses the softplus of the log-variance and counts log 2 pi once.
    Source: Bishop 1994, eq. 6 to 8; VT-ADL, eq. 5. Test: tests/test_eq_mdn.py
    """
    squared = (target[..., None, :] - mixture.mean).square() * torch.exp(-mixture.log_variance)
    squared = squared.clamp(max=most_deviation**2) if most_deviation else squared
    per_component = -0.5 * (squared + mixture.log_variance + math.log(2 * math.pi)).sum(dim=-1)
    return -torch.logsumexp(mixture.log_weight + per_component, dim=-1)


class MixtureDensityNetwork(nn.Module):
    """Predicts a Gaussian mixture per patch from a feature vector.

    Args:
        in_dim: width of the conditioning features.
        target_dim: D, dimensions of the vector whose density is predicted.
        components: K.
        hidden: width of one hidden layer (GELU); 0 for the linear heads of VT-ADL.
        log_variance_floor: lower bound of every log-variance, approached smoothly.
        places: mixtures per patch, each of its own place in the patch.

    Source: VT-ADL, section III (Gaussian approximation). Test: tests/test_eq_mdn.py
    """

    def __init__(
        self, *, in_dim: int, target_dim: int, components: int, hidden: int, log_variance_floor: float, places: int = 1
    ) -> None:
        super().__init__()
        self.components, self.target_dim, self.log_variance_floor = components, target_dim, log_variance_floor
        self.body = nn.Sequential(nn.Linear(in_dim, hidden), nn.GELU()) if hidden else nn.Identity()
        width = hidden or in_dim
        self.to_weight = nn.Linear(width, places * components)
        self.to_mean = nn.Linear(width, places * components * target_dim)
        self.to_log_variance = nn.Linear(width, places * components * target_dim)
        nn.init.constant_(self.to_log_variance.bias, -log_variance_floor)  # softplus(x) ~ x: log-variance 0

    def forward(self, features: Tensor) -> Mixture:
        """``(batch, N, in_dim)`` features to the mixtures of every place, ``(batch, N places, ...)``."""
        h = self.body(features)
        split, sizes = "b n (s k d) -> b (n s) k d", {"k": self.components, "d": self.target_dim}
        raw = rearrange(full_precision(self.to_log_variance(h)), split, **sizes)
        weight = rearrange(full_precision(self.to_weight(h)), "b n (s k) -> b (n s) k", k=self.components)
        return Mixture(
            log_weight=F.log_softmax(weight, dim=-1),
            mean=rearrange(full_precision(self.to_mean(h)), split, **sizes),
            log_variance=self.log_variance_floor + F.softplus(raw),
        )
