"""The ADViT network: patch embedding, anomaly encoder, reconstruction, Gaussian mixture density."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from advit.attention import AnomalyAttention, Associations
from advit.config import ADViTConfig
from advit.decoder import Decoder, ReconstructionVector
from advit.mdn import Mixture, MixtureDensityNetwork, expected_nll, mixture_nll
from advit.minimax_attention import Minimax
from advit.patches import patchify, position_waves
from advit.precision import full_precision
from advit.targets import FilterTarget, PixelTarget, Unseen

CHANNELS = 3


@dataclass(frozen=True)
class ADViTOutput:
    """What one forward pass gives. N patches, width d.

    ``encoded (batch, N, d)`` before noise; ``reconstruction (batch, 3, R, R)`` in [0, 1], R = H / reconstruction_scale;
    ``nll (batch, N places)`` in nats per dimension; ``associations``: one per layer.
    """

    encoded: Tensor
    reconstruction: Tensor
    nll: Tensor
    associations: list[Associations]


def density_target(config: ADViTConfig) -> PixelTarget | FilterTarget | None:
    """The configured vector whose density is predicted; None for the encoded features themselves."""
    if config.density_target == "pixels":
        return PixelTarget(patch=config.patch, channels=CHANNELS, target_dim=config.target_dim)
    if config.density_target == "filters":
        return FilterTarget(
            image_size=config.image_size, grid=config.grid, cells=config.target_cells, levels=config.filter_levels,
            least_change=config.least_change, factors=config.factors,
        )  # fmt: skip
    return None


class EncoderLayer(nn.Module):
    """x = x + AnomalyAttention(Norm(x)); x = x + MLP(Norm(x)). Source: Anomaly Transformer, eq. 1 (pre-norm)."""

    def __init__(self, config: ADViTConfig) -> None:
        super().__init__()
        self.attention = AnomalyAttention(
            dim=config.dim, heads=config.heads, grid=config.grid, sigma_max=config.sigma_max
        )
        self.norm_attention, self.norm_mlp = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.mlp = nn.Sequential(
            nn.Linear(config.dim, config.mlp_dim), nn.GELU(), nn.Linear(config.mlp_dim, config.dim)
        )

    def forward(self, x: Tensor, minimax: Minimax | None = None) -> tuple[Tensor, Associations]:
        out, associations = self.attention(self.norm_attention(x), minimax)
        x = x + out
        return x + self.mlp(self.norm_mlp(x)), associations


class ADViT(nn.Module):
    """ADViT as one module; every part and its equation has its own file.

    Chosen, where the paper is silent: with ``density_context="others"`` the patches in ``mask`` are replaced
    by a learned token, so that the density of a patch follows from the other patches alone (but for the filters of its
    neighbours, whose windows reach into it, and for the factors of the whole image, which are taken off all). With
    "self" it follows from the patch's own features, after the noise, and its target is the feature vector without
    noise and without gradient. The position embedding is learned, but starts from waves: from small random numbers
    the encoder takes thousands of steps to find a patch's neighbours. With filters as the density's target a patch is
    embedded with its own filter features besides its pixels (not with those of its neighbourhood, which would tell of a
    hidden neighbour): what is to be predicted then follows from the other tokens almost linearly, and is learnt in
    hundreds of steps.

    Test: tests/test_model.py
    """

    def __init__(self, config: ADViTConfig) -> None:
        super().__init__()
        self.config = config
        n, d = config.grid**2, config.dim
        self.embed = nn.Linear(config.patch**2 * CHANNELS, d)
        self.target = density_target(config)
        filters = isinstance(self.target, FilterTarget)
        self.embed_features = nn.Linear(config.target_cells**2 * self.target.own, d) if filters else None
        self.position = nn.Parameter(position_waves(config.grid, d)[None])
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(d)
        self.to_vector = ReconstructionVector(tokens=n, dim=d, out_dim=config.bottleneck)
        self.decoder = Decoder(
            in_dim=config.bottleneck,
            image_size=config.image_size // config.reconstruction_scale,
            channels=CHANNELS,
            width=config.decoder_width,
        )
        self.mask_token = nn.Parameter(torch.zeros(d)) if config.density_context == "others" else None
        self.density = MixtureDensityNetwork(
            in_dim=d,
            target_dim=d if self.target is None else self.target.width,
            components=config.components,
            hidden=config.density_hidden,
            log_variance_floor=config.log_variance_floor,
            places=config.target_cells**2,
        )

    def encode(
        self,
        images: Tensor,
        mask: Tensor | None = None,
        target: Tensor | None = None,
        minimax: Minimax | None = None,
    ) -> tuple[Tensor, list[Associations]]:
        """Images ``(batch, 3, H, H)`` to features ``(batch, N, d)`` and the associations of every layer.

        ``mask (batch, N)``: True where a patch is hidden from the encoder. ``target``: the images' filter features, if
        they are known already. ``minimax``: every layer also computes its discrepancy, in one pass with its attention.
        """
        x = self.embed(patchify(images - 0.5, self.config.patch))
        if self.embed_features is not None:
            target = self.target(images) if target is None else target
            own = rearrange(target[..., : self.target.own], "b (n s) d -> b n (s d)", n=x.shape[1])
            x = x + self.embed_features(own)
        if mask is not None:
            x = torch.where(mask[..., None], self.mask_token.to(x.dtype), x)
        x = x + self.position
        associations = []
        for layer in self.layers:
            x, a = layer(x, minimax)
            associations.append(a)
        return self.norm(x), associations

    def forward(
        self,
        images: Tensor,
        mask: Tensor | None = None,
        noise: Tensor | None = None,
        minimax: Minimax | None = None,
        unseen: Unseen | None = None,
    ) -> ADViTOutput:
        """One pass. ``noise (batch, N, d)``: a draw of N(0, noise_sd^2), added in training mode only.

        ``unseen``: of training images, for their targets.
        """
        target = self.target(images, unseen) if self.target is not None else None
        encoded, associations = self.encode(images, mask, target, minimax)
        target = full_precision(encoded).detach() if target is None else target
        features = encoded + noise if self.training and noise is not None else encoded
        return ADViTOutput(
            encoded=encoded,
            reconstruction=self.reconstruct(features),
            nll=self.patch_nll(features, target),
            associations=associations,
        )

    def reconstruct(self, features: Tensor) -> Tensor:
        """Features ``(batch, N, d)`` to the reconstruction ``(batch, 3, R, R)`` in [0, 1]."""
        return self.decoder(self.to_vector(features))

    def patch_nll(self, features: Tensor, target: Tensor) -> Tensor:
        """NLL of every place's target under its mixture, in nats per dimension, ``(batch, N places)``."""
        return mixture_nll(target, self.density(features)) / target.shape[-1]

    def patch_density(self, features: Tensor, target: Tensor) -> Tensor:
        """The density's score of every place, ``(batch, N places)``: high where it is unlikely.

        -log p(z), in nats per dimension; with density_score="surprise" less what the mixture expects of it
        (:func:`advit.mdn.expected_nll`). No number of z counts as farther from a Gaussian's mean than most_deviation
        of its sd. Of filters, z = (r, v), place and neighbourhoods:

        -log p(r) - a log p(v | r), a = near_share: 0 for the place alone, which tells most sharply where a defect is,
        1 for -log p(r, v), which finds faint ones.

        Chosen: the paper has one NLL per patch. Test: tests/test_model.py
        """
        mixture = self.density(features)
        score = self._improbable(target, mixture)
        share, own = self.config.near_share, getattr(self.target, "own", target.shape[-1])
        if own == target.shape[-1] or share == 1:
            return score / target.shape[-1]
        alone = self._improbable(target[..., :own], mixture.marginal(own))
        return (alone + share * (score - alone)) / (own + share * (target.shape[-1] - own))

    def _improbable(self, target: Tensor, mixture: Mixture) -> Tensor:
        nll = mixture_nll(target, mixture, self.config.most_deviation)
        return nll - expected_nll(mixture) if self.config.density_score == "surprise" else nll
