"""Preset ``vt_adl``: what the public VT-ADL / ADViT code computes, kept for comparison.

A plain vision transformer, a capsule and a decoder that reconstruct the image, and a mixture density network
on the encoded patches with a likelihood of its own. No association discrepancy is in it: this is not ADViT.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from advit.decoder import ReconstructionVector
from advit.errors import CheckpointError, ConfigError
from advit.losses import reconstruction_loss
from advit.vt_adl_decoder import CODE, PublicDecoder

INPUT_FLOOR = torch.finfo(torch.float64).eps  # 2.2e-16, the least input of the density network


@dataclass(frozen=True)
class VTADLOutput:
    """What :class:`VTADL` returns for N patches of width d and K components.

    ``encoded``: ``(batch, N, d)``, with the noise in training mode. ``reconstruction``: ``(batch, C, H, H)``.
    ``log_pi``: ``(batch, N, K)``. ``patch_nll``: ``(batch, N)``, the public likelihood, score of a patch.
    """

    encoded: Tensor
    reconstruction: Tensor
    log_pi: Tensor
    patch_nll: Tensor

    @property
    def pi(self) -> Tensor:
        """Mixture weights ``(batch, N, K)``; rows sum to 1."""
        return self.log_pi.exp()


def public_patch_nll(encoded: Tensor, log_pi: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """What the public code calls negative log-likelihood.

        NLL_i = sum_k pi_ik (1/2) (log 2 pi + sum_j [s_ijk + (z_ij - mu_ijk)^2 / exp(s_ijk)])

    Args:
        encoded: z, ``(batch, N, d)``.
        log_pi: ``(batch, N, K)``. mean, log_variance: mu and s, ``(batch, N, d, K)``.

    Returns:
        ``(batch, N)``.

    Differs: from a likelihood, as the public code does. It averages the components' values instead of adding
    their densities (an upper bound that a one-hot pi minimises) and counts log 2 pi once instead of d times;
    the likelihood is :func:`advit.mdn.mixture_nll`. Source: the public code. Test: tests/test_eq_vt_adl.py
    """
    squared = (encoded.unsqueeze(-1) - mean).square()
    summed = (log_variance + squared * torch.exp(-log_variance)).sum(dim=2)  # over the d dimensions
    return 0.5 * (log_pi.exp() * (math.log(2 * math.pi) + summed)).sum(dim=-1)


class PublicBlock(nn.Module):
    """One encoder block: x = x + A(Norm x), x = x + MLP(Norm x), for x ``(batch, N + 1, d)``.

    A = softmax(Q K^T / sqrt(d)) V without biases in Q, K, V; MLP d -> mlp_dim -> d with GELU.

    Differs: from the usual transformer, as the public code does: the scale has the full width d instead of
    the width d / M of one head, so with 8 heads the logits are 2.8 times smaller.
    Test: tests/test_eq_vt_adl.py
    """

    def __init__(self, *, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.attention_out = nn.Linear(dim, dim)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp_in = nn.Linear(dim, mlp_dim)
        self.mlp_out = nn.Linear(mlp_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.attention_norm(x))
        q, k, v = rearrange(qkv, "b n (three m d) -> three b m n d", three=3, m=self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=x.shape[-1] ** -0.5)
        x = x + self.attention_out(rearrange(mixed, "b m n d -> b n (m d)"))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x))))


class PublicDensity(nn.Module):
    """The public mixture density network: three linear maps without bias of x = max(z, 2.2e-16).

    pi = softmax(A x), ``(batch, N, K)``; mu = B x and s = softplus(C x), ``(batch, N, d, K)``.

    Returns:
        log pi, mu, and s, a log-variance.

    Kept as it is: z is both input and target, the clamp hides negative features from the input only, and
    s > 0, so no variance is below 1. Source: the public code. Test: tests/test_eq_vt_adl.py
    """

    def __init__(self, *, dim: int, components: int) -> None:
        super().__init__()
        self.pi = nn.Linear(dim, components, bias=False)
        self.mean = nn.Linear(dim, dim * components, bias=False)
        self.log_variance = nn.Linear(dim, dim * components, bias=False)

    def forward(self, encoded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = encoded.clamp(min=INPUT_FLOOR)
        by_dimension = (encoded.shape[-1], self.pi.out_features)
        mean = self.mean(x).unflatten(-1, by_dimension)
        log_variance = F.softplus(self.log_variance(x)).unflatten(-1, by_dimension)
        return self.pi(x).log_softmax(dim=-1), mean, log_variance


class VTADL(nn.Module):
    """The public network and density network as one module; defaults: the public setting, 41.1 M parameters.

    Patches (row, column, channel) -> linear, class token in front, position embedding -> blocks -> class
    token dropped: z ``(batch, N, d)`` -> noise, in training mode only -> capsule and decoder: reconstruction;
    density network: patch_nll.

    Initial values as in the public code: Kaiming normal and zero bias for the encoder's linear maps, standard
    normal position embedding and class token, 0.01 normal for the capsule, PyTorch's own for the rest.

    Args:
        image_size: H. patch: its divisor. dim: d. components: K. noise_sd: in units of z.

    Raises:
        ConfigError: patch does not divide image_size, or heads does not divide dim.

    Source: Mishra et al., ISIE 2021, and its public code.
    Differs: ``eval()`` switches the noise off (the public flag is set in the constructor and stays on); the
    routing loop is the linear map it equals (:class:`advit.decoder.ReconstructionVector`); sizes other than
    512 (:class:`advit.vt_adl_decoder.PublicDecoder`).
    Test: tests/test_eq_vt_adl.py
    """

    target = None  # its density is of its own features

    def __init__(
        self, *, image_size: int = 512, patch: int = 64, dim: int = 512, depth: int = 6, heads: int = 8,
        mlp_dim: int = 1024, components: int = 10, noise_sd: float = 0.2, in_channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        if image_size % patch:
            raise ConfigError(f"patch {patch} does not divide image_size {image_size}: choose one that does")
        if dim % heads:
            raise ConfigError(f"heads {heads} does not divide dim {dim}: choose one that does")
        tokens = (image_size // patch) ** 2
        self.patch, self.noise_sd = patch, noise_sd
        self.position_embedding = nn.Parameter(torch.randn(1, tokens + 1, dim))
        self.class_token = nn.Parameter(torch.randn(1, 1, dim))
        self.patch_projection = nn.Linear(in_channels * patch**2, dim)
        self.blocks = nn.ModuleList(PublicBlock(dim=dim, heads=heads, mlp_dim=mlp_dim) for _ in range(depth))
        self.capsule = ReconstructionVector(tokens=tokens, dim=dim, out_dim=CODE)
        self.decoder = PublicDecoder(image_size=image_size, channels=in_channels)
        self.density = PublicDensity(dim=dim, components=components)
        for module in (self.patch_projection, *self.blocks.modules()):
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.capsule.linear.weight, std=0.01)

    def encode(self, images: Tensor) -> Tensor:
        """Images ``(batch, C, H, H)`` in [0, 1] to z ``(batch, N, d)``, without noise."""
        patches = rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=self.patch, q=self.patch)
        tokens = self.patch_projection(patches)
        x = torch.cat([self.class_token.expand(len(images), -1, -1), tokens], dim=1) + self.position_embedding
        for block in self.blocks:
            x = block(x)
        return x[:, 1:]

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> VTADLOutput:
        """Everything for images ``(batch, C, H, H)`` in [0, 1]; ``generator`` draws the training noise."""
        encoded = self.encode(images)
        if self.training and self.noise_sd > 0:
            device = encoded.device if generator is None else generator.device
            noise = torch.randn(encoded.shape, generator=generator, device=device, dtype=encoded.dtype)
            encoded = encoded + self.noise_sd * noise.to(encoded.device)
        log_pi, mean, log_variance = self.density(encoded)
        return VTADLOutput(
            encoded=encoded,
            reconstruction=self.decoder(self.capsule(encoded)),
            log_pi=log_pi,
            patch_nll=public_patch_nll(encoded, log_pi, mean, log_variance),
        )


def vt_adl_loss(output: VTADLOutput, images: Tensor) -> dict[str, Tensor]:
    """The public objective for images ``(batch, C, H, H)``: 5 MSE - 0.5 SSIM + mean_b sum_i NLL_bi.

    Returns:
        Scalars ``total``, ``mse``, ``ssim``, ``density``. The density is summed over patches and dimensions:
        it outweighs the reconstruction by orders of magnitude. Test: tests/test_eq_vt_adl.py
    """
    reconstruction, mse, similarity = reconstruction_loss(images, output.reconstruction, 5.0, 0.5)
    density = output.patch_nll.sum(dim=1).mean()
    return {"total": reconstruction + density, "mse": mse, "ssim": similarity, "density": density}


# (pattern of our parameter names, public name); the public density network has a state dict of its own
PUBLIC_NAMES = (
    (r"position_embedding", "vt.pos_embedding"),
    (r"class_token", "vt.cls_token"),
    (r"patch_projection\.(\w+)", r"vt.patch_to_embedding.\1"),
    (r"blocks\.(\d+)\.attention_norm\.(\w+)", r"vt.transformer.layers.\1.0.fn.norm.\2"),
    (r"blocks\.(\d+)\.qkv\.(\w+)", r"vt.transformer.layers.\1.0.fn.fn.to_qkv.\2"),
    (r"blocks\.(\d+)\.attention_out\.(\w+)", r"vt.transformer.layers.\1.0.fn.fn.to_out.0.\2"),
    (r"blocks\.(\d+)\.mlp_norm\.(\w+)", r"vt.transformer.layers.\1.1.fn.norm.\2"),
    (r"blocks\.(\d+)\.mlp_in\.(\w+)", r"vt.transformer.layers.\1.1.fn.fn.net.0.\2"),
    (r"blocks\.(\d+)\.mlp_out\.(\w+)", r"vt.transformer.layers.\1.1.fn.fn.net.2.\2"),
    (r"decoder\.layers\.(.+)", r"decoder.decoder2.\1"),
    (r"capsule\.linear\.weight", "Digcap.W"),
    (r"density\.pi\.weight", "pi.weight"),
    (r"density\.mean\.weight", "mu.weight"),
    (r"density\.log_variance\.weight", "sigma_sq.weight"),
)
CAPSULE_LENGTH = 8  # Digcap.W (1, N d / 8, 512, 8): the tokens of an image as N d / 8 capsules of 8 numbers


def public_layout(model: VTADL, part: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Public key -> (our name, public shape) of one ``part``, "network" or "density", of the public code.

    Test: tests/test_eq_vt_adl.py
    """
    layout = {}
    for name, value in model.state_dict().items():
        key = next(re.sub(pattern, key, name) for pattern, key in PUBLIC_NAMES if re.fullmatch(pattern, name))
        shape = tuple(value.shape)
        if key == "Digcap.W":
            shape = (1, shape[1] // CAPSULE_LENGTH, shape[0], CAPSULE_LENGTH)
        if name.startswith("density.") == (part == "density"):
            layout[key] = (name, shape)
    return layout


def load_public_state_dict(model: VTADL, network: Mapping[str, Tensor], density: Mapping[str, Tensor]) -> None:
    """Copy the state dicts of the public code's two modules into ``model``: all of it, or nothing.

    Raises:
        CheckpointError: names the keys that are missing, unexpected or of another shape.

    Test: tests/test_eq_vt_adl.py
    """
    state = {}
    for part, given in (("network", network), ("density", density)):
        layout = public_layout(model, part)
        faults = [f"missing {key}" for key in layout if key not in given]
        for key, value in given.items():
            name, shape = layout.get(key, (None, None))
            if name is None:
                faults.append(f"unexpected {key}")
            elif tuple(value.shape) != shape:
                faults.append(f"{key} is {tuple(value.shape)} instead of {shape}")
            else:
                state[name] = rearrange(value, "1 c out k -> out (c k)") if key == "Digcap.W" else value
        if faults:
            more = f" and {len(faults) - 8} more" if len(faults) > 8 else ""
            raise CheckpointError(
                f"the public {part} state dict does not fit this model: {'; '.join(faults[:8])}{more}. "
                "Build the model with the sizes that the checkpoint was trained with"
            )
    model.load_state_dict(state)
