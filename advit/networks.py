"""The two networks behind one interface: build, training terms, patch scores."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advit.augment import augment
from advit.config import ADViTConfig
from advit.discrepancy import association_discrepancy
from advit.losses import reconstruction_loss
from advit.masks import random_masks
from advit.minimax_attention import Minimax
from advit.model import ADViT
from advit.patches import patchify
from advit.precision import full_precision, to_device
from advit.targets import FilterTarget, Unseen
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


FIT_COPIES = 5  # of every training image, changed as in training, besides the image itself


def fit_target(network: nn.Module, load: Callable[[list[int]], Tensor], count: int, seed: int = 0) -> None:
    """Fit the fixed part of the network (the target's whitening) to ``count`` defect-free training images.

    Filters see each image also moved and brightened as in training, so that a place's statistics allow for that.
    """
    config, target = network.config, network.target
    if target is None:
        return
    generator = torch.Generator().manual_seed(seed)
    changed = config.density_target == "filters" and (config.shift or config.brightness)

    def copies(index: int) -> Tensor:
        image = load([index]).float() / 255
        if not changed:
            return image
        moved = augment(image.expand(FIT_COPIES, -1, -1, -1), config.shift, config.brightness, generator)
        return torch.cat([image, moved])

    target.fit(copies(i) for i in range(count))


def training_terms(
    network: nn.Module, images: Tensor, generator: torch.Generator, folds: Tensor | None = None
) -> dict[str, Tensor]:
    """All terms of one training step; "total" is what is differentiated.

    total = 2 L_rec + lambda AD (its gradient reversed towards the series-association) + w NLL, with L_rec twice
    whatever the phases, so that runs with and without them differ in nothing else. ``folds (batch,)``: of the
    images; their targets are then those of images not seen (:class:`advit.targets.Unseen`).

    Source: Anomaly Transformer, eq. 4 and 5; VT-ADL, eq. 6. Test: tests/test_eq_minimax.py
    """
    config: ADViTConfig = network.config
    if config.model == "vt_adl":
        return vt_adl_loss(network(images, generator), images)
    batch, n, mask, judged = len(images), config.grid**2, None, 0
    noise = config.noise_sd * torch.randn(batch, n, config.dim, generator=generator, dtype=images.dtype)
    if config.density_context == "others":
        mask = random_masks(config, batch, generator)
        judged = int(mask.sum()) * config.target_cells**2
        mask = to_device(mask, images.device)
    unseen = None
    if folds is not None and isinstance(network.target, FilterTarget):
        size = (batch, n * config.target_cells**2, network.target.own)
        unseen = Unseen(folds, to_device(torch.randn(size, generator=generator, dtype=images.dtype), images.device))
    minimax = Minimax(config.smoothing_eps, config.minimax, config.kernels)
    out = network(images, mask, to_device(noise, images.device), minimax, unseen)
    reconstruction, mse, similarity = reconstruction_loss(
        shrunk(images, config), out.reconstruction, config.mse_weight, config.ssim_weight
    )
    discrepancy = torch.stack([a.discrepancy for a in out.associations]).mean()
    density = out.nll.mean() if mask is None else (out.nll * by_place(mask, config)).sum() / judged
    total = 2 * reconstruction + config.minimax_lambda * discrepancy + config.density_weight * density
    return {"total": total, "mse": mse, "ssim": similarity, "discrepancy": discrepancy, "density": density}


def shrunk(images: Tensor, config: ADViTConfig) -> Tensor:
    """Images at the size of the reconstruction: means of squares of pixels."""
    scale = config.reconstruction_scale
    return images if scale == 1 else F.avg_pool2d(images, scale)


def by_place(values: Tensor, config: ADViTConfig) -> Tensor:
    """Values per patch ``(..., N)`` repeated for every place of the patch, ``(..., N places)``."""
    return values.repeat_interleave(config.target_cells**2, dim=-1)


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
    network: nn.Module,
    images: Tensor,
    mask: Tensor | None = None,
    wanted: Collection[str] = SCORES,
    target: Tensor | None = None,
) -> dict[str, Tensor]:
    """The wanted scores of every patch, ``(batch, N)`` each; high means abnormal, except the discrepancy.

    density: NLL_i or its surprise, in nats per dimension, of every place, ``(batch, N places)``;
    reconstruction: e_i, mean squared error of the patch;
    discrepancy: AD_i in nats; association: softmax_i(-AD) e_i (Anomaly Transformer, eq. 6). ``target``: of the density,
    if it is known already.
    ``vt_adl`` has no prior-association and gives the first two.

    Test: tests/test_scoring.py
    """
    config: ADViTConfig = network.config
    if config.model == "vt_adl":
        return public_patch_scores(network, images, wanted)
    if target is None and network.target is not None:
        target = network.target(images)
    encoded, associations = network.encode(images, mask, target)
    scores: dict[str, Tensor] = {}
    if "density" in wanted:
        target = full_precision(encoded) if target is None else target
        scores["density"] = network.patch_density(encoded, target)
    if {"reconstruction", "association"} & set(wanted):
        side = config.patch // config.reconstruction_scale
        error = patchify(shrunk(images, config), side) - patchify(network.reconstruct(encoded), side)
        scores["reconstruction"] = error.square().mean(dim=-1)
    if {"discrepancy", "association"} & set(wanted):
        scores["discrepancy"] = association_discrepancy(associations, config.smoothing_eps, config.kernels)
    if "association" in wanted:
        scores["association"] = torch.softmax(-scores["discrepancy"], dim=-1) * scores["reconstruction"]
    return {name: scores[name] for name in SCORES if name in wanted}
