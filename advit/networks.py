"""The two networks behind one interface: build, training terms, patch scores."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from advit.config import ADViTConfig
from advit.discrepancy import association_discrepancy, minimax_discrepancy
from advit.losses import reconstruction_loss
from advit.model import ADViT
from advit.patches import patchify
from advit.vt_adl import VTADL, public_patch_nll, vt_adl_loss

SCORES = ("density", "reconstruction", "discrepancy", "association")


def build_network(config: ADViTConfig, seed: int) -> nn.Module:
    """The configured network with seeded initial weights; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ADViT(config) if config.model == "advit" else public_network(config)
    return network.double() if config.precision == "float64" else network


def public_network(config: ADViTConfig) -> VTADL:
    """The public network of the configured sizes."""
    network = VTADL(
        image_size=config.image_size, patch=config.patch, dim=config.dim, depth=config.depth, heads=config.heads,
        mlp_dim=config.mlp_dim, components=config.components, noise_sd=config.noise_sd,
    )  # fmt: skip
    network.config = config
    return network


def fit_target(network: nn.Module, load: Callable[[list[int]], Tensor], count: int) -> None:
    """Fit the fixed part of the network (the pixel target's whitening) to all defect-free training images."""
    target = getattr(network, "target", None)
    if target is not None:
        target.fit(load([i]).float() / 255 for i in range(count))


def training_terms(network: nn.Module, images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """All terms of one training step; "total" is what is differentiated.

    total = 2 L_rec + lambda AD (its gradient reversed towards the series-association) + w NLL, with L_rec twice
    whatever the phases, so that runs with and without them differ in nothing else.

    Source: Anomaly Transformer, eq. 4 and 5; VT-ADL, eq. 6. Test: tests/test_eq_minimax.py
    """
    config: ADViTConfig = network.config
    if config.model == "vt_adl":
        return vt_adl_loss(network(images, generator), images)
    batch, n, mask = len(images), config.grid**2, None
    noise = config.noise_sd * torch.randn(batch, n, config.dim, generator=generator, dtype=images.dtype)
    if config.density_context == "others":
        mask = random_masks(batch, n, config.mask_share, generator).to(images.device)
    out = network(images, mask, noise.to(images.device))
    reconstruction, mse, similarity = reconstruction_loss(
        images, out.reconstruction, config.mse_weight, config.ssim_weight
    )
    discrepancy = minimax_discrepancy(out.associations, config.smoothing_eps, config.minimax)
    density = out.nll[mask].mean() if mask is not None else out.nll.mean()
    total = 2 * reconstruction + config.minimax_lambda * discrepancy + config.density_weight * density
    return {"total": total, "mse": mse, "ssim": similarity, "discrepancy": discrepancy, "density": density}


def random_masks(batch: int, patches: int, share: float, generator: torch.Generator) -> Tensor:
    """One random mask per image ``(batch, N)``, hiding this share of the patches. Test: tests/test_training.py"""
    rank = torch.rand(batch, patches, generator=generator).argsort(dim=-1).argsort(dim=-1)
    return rank < max(1, round(share * patches))


def public_patch_scores(network: VTADL, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    """The wanted scores that the public network has; its slow decoder runs only if the error is wanted."""
    encoded = network.encode(images)
    scores: dict[str, Tensor] = {}
    if "density" in wanted:
        scores["density"] = public_patch_nll(encoded, *network.density(encoded))
    if "reconstruction" in wanted:
        error = patchify(images, network.patch) - patchify(network.decoder(network.capsule(encoded)), network.patch)
        scores["reconstruction"] = error.square().mean(dim=-1)
    return scores


def patch_scores(
    network: nn.Module, images: Tensor, mask: Tensor | None = None, wanted: Collection[str] = SCORES
) -> dict[str, Tensor]:
    """The wanted scores of every patch, ``(batch, N)`` each; high means abnormal, except the discrepancy.

    density: NLL_i, in nats per dimension; reconstruction: e_i, mean squared error of the patch;
    discrepancy: AD_i in nats; association: softmax_i(-AD) e_i (Anomaly Transformer, eq. 6).
    ``vt_adl`` has no prior-association and gives the first two.

    Test: tests/test_scoring.py
    """
    config: ADViTConfig = network.config
    if config.model == "vt_adl":
        return public_patch_scores(network, images, wanted)
    encoded, associations = network.encode(images, mask)
    scores: dict[str, Tensor] = {}
    if "density" in wanted:
        scores["density"] = network.patch_nll(encoded, images, encoded)
    if {"reconstruction", "association"} & set(wanted):
        error = patchify(images, config.patch) - patchify(network.reconstruct(encoded), config.patch)
        scores["reconstruction"] = error.square().mean(dim=-1)
    if {"discrepancy", "association"} & set(wanted):
        scores["discrepancy"] = association_discrepancy(associations, config.smoothing_eps)
    if "association" in wanted:
        scores["association"] = torch.softmax(-scores["discrepancy"], dim=-1) * scores["reconstruction"]
    return {name: scores[name] for name in SCORES if name in wanted}
