"""The opponent: the public network's computation, written out literally.

Attention weights materialised, a routing loop over capsules, a decoder in the default layout, SSIM by five grouped
11 x 11 convolutions, expanded tensors in the mixture's loss. Parameters have the names that public checkpoints have.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from advit.vt_adl import CAPSULE_LENGTH, INPUT_FLOOR, VTADL, public_layout

ROUTINGS = 3


def squash(v: Tensor) -> Tensor:
    """|v| v / (1 + |v|^2) of vectors along the last axis but one."""
    square = v.square().sum(dim=-2, keepdim=True)
    return square * v / ((1 + square) * square.sqrt())


def routed_capsule(tokens: Tensor, weight: Tensor) -> Tensor:
    """Dynamic routing of capsules of 8 numbers to one capsule, ``(batch, 512)``."""
    capsules = tokens.reshape(len(tokens), -1, CAPSULE_LENGTH, 1)
    votes = torch.matmul(weight, capsules)  # (batch, capsules in, 512, 1)
    agreement = torch.zeros(len(tokens), votes.shape[1], 1, 1)
    for routing in range(ROUTINGS):
        share = torch.softmax(agreement, dim=2)  # over the one capsule: always 1
        capsule = squash((share * votes).sum(dim=1, keepdim=True))
        if routing < ROUTINGS - 1:
            agreement = agreement + torch.matmul(votes.transpose(2, 3), capsule.expand_as(votes))
    return capsule.flatten(1)


def grouped_ssim(x: Tensor, y: Tensor, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Mean SSIM with a two-dimensional window, five grouped convolutions."""
    axis = torch.arange(window, dtype=x.dtype) - window // 2
    taps = torch.exp(-axis.square() / (2 * sigma**2))
    channels, square = x.shape[1], torch.outer(taps, taps) / taps.sum() ** 2
    kernel = square.expand(channels, 1, window, window).contiguous()

    def mean(z: Tensor) -> Tensor:
        return F.conv2d(z, kernel, padding=window // 2, groups=channels)

    u, v = mean(x), mean(y)
    xx, yy, xy = mean(x * x) - u**2, mean(y * y) - v**2, mean(x * y) - u * v
    c1, c2 = 0.01**2, 0.03**2
    return (((2 * u * v + c1) * (2 * xy + c2)) / ((u**2 + v**2 + c1) * (xx + yy + c2))).mean()


class LiteralVTADL(nn.Module):
    """Parameters by their public names, and the computation of one step or score."""

    def __init__(self, ours: VTADL) -> None:
        super().__init__()
        self.patch, self.noise_sd, self.heads = ours.patch, ours.noise_sd, ours.blocks[0].heads
        self.depth = len(ours.blocks)
        self.decoder = literal_decoder(ours)
        state = ours.state_dict()
        for part in ("network", "density"):
            for key, (name, shape) in public_layout(ours, part).items():
                if not key.startswith("decoder."):
                    value = state[name]
                    value = rearrange(value, "out (c k) -> 1 c out k", k=CAPSULE_LENGTH) if key == "Digcap.W" else value
                    self.register_parameter(key.replace(".", "__"), nn.Parameter(value.reshape(shape).clone()))

    def get(self, key: str) -> Tensor:
        """Parameter of this public name."""
        return getattr(self, key.replace(".", "__"))

    def encode(self, images: Tensor) -> Tensor:
        """z ``(batch, N, d)``."""
        patches = rearrange(images, "b c (h p) (w q) -> b (h w) (p q c)", p=self.patch, q=self.patch)
        x = F.linear(patches, self.get("vt.patch_to_embedding.weight"), self.get("vt.patch_to_embedding.bias"))
        x = torch.cat([self.get("vt.cls_token").expand(len(x), -1, -1), x], dim=1) + self.get("vt.pos_embedding")
        for i in range(self.depth):
            at, mlp = f"vt.transformer.layers.{i}.0.fn", f"vt.transformer.layers.{i}.1.fn"
            x = x + self.attention(self.norm(x, at), at + ".fn")
            hidden = F.gelu(self.linear(self.norm(x, mlp), mlp + ".fn.net.0"))
            x = x + self.linear(hidden, mlp + ".fn.net.2")
        return x[:, 1:]

    def norm(self, x: Tensor, at: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.get(at + ".norm.weight"), self.get(at + ".norm.bias"))

    def linear(self, x: Tensor, at: str) -> Tensor:
        return F.linear(x, self.get(at + ".weight"), self.get(at + ".bias"))

    def attention(self, x: Tensor, at: str) -> Tensor:
        qkv = F.linear(x, self.get(at + ".to_qkv.weight"))
        q, k, v = rearrange(qkv, "b n (three m d) -> three b m n d", three=3, m=self.heads)
        weights = torch.softmax(q @ k.transpose(-1, -2) * x.shape[-1] ** -0.5, dim=-1)
        return self.linear(rearrange(weights @ v, "b m n d -> b n (m d)"), at + ".to_out.0")

    def reconstruct(self, encoded: Tensor) -> Tensor:
        return self.decoder(routed_capsule(encoded, self.get("Digcap.W")).reshape(len(encoded), 8, 8, 8))

    def patch_nll(self, encoded: Tensor) -> Tensor:
        """The public likelihood of every patch ``(batch, N)``."""
        x, d = encoded.clamp(min=INPUT_FLOOR), encoded.shape[-1]
        pi = torch.softmax(F.linear(x, self.get("pi.weight")), dim=-1)
        mean = F.linear(x, self.get("mu.weight")).view(*x.shape[:2], d, -1)
        s = F.softplus(F.linear(x, self.get("sigma_sq.weight"))).view(*x.shape[:2], d, -1)
        z = encoded.unsqueeze(-1).expand_as(mean)
        value = 0.5 * (math.log(2 * math.pi) + (s + (z - mean) ** 2 / torch.exp(s)).sum(dim=2))
        return (pi * value).sum(dim=-1)

    def losses(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """5 MSE - 0.5 SSIM, and the density's loss, which is orders of magnitude larger."""
        encoded = self.encode(images)
        encoded = encoded + self.noise_sd * torch.randn(encoded.shape, generator=generator, dtype=encoded.dtype)
        picture = self.reconstruct(encoded)
        density = self.patch_nll(encoded).sum(dim=1).mean()
        return 5 * F.mse_loss(picture, images) - 0.5 * grouped_ssim(images, picture), density


def literal_decoder(ours: VTADL) -> nn.Sequential:
    """The decoder's layers with the same weights, in the default layout."""
    layers: list[nn.Module] = []
    for layer in ours.decoder.layers:
        if isinstance(layer, nn.ConvTranspose2d):
            sizes: dict[str, Any] = {k: getattr(layer, k) for k in ("kernel_size", "stride", "padding")}
            layers.append(nn.ConvTranspose2d(layer.in_channels, layer.out_channels, **sizes))
        elif isinstance(layer, nn.BatchNorm2d):
            layers.append(nn.BatchNorm2d(layer.num_features))
        else:
            layers.append(nn.ReLU() if isinstance(layer, nn.ReLU) else nn.Tanh())
    decoder = nn.Sequential(*layers).to(ours.position_embedding.dtype)
    decoder.load_state_dict({k: v.contiguous() for k, v in ours.decoder.layers.state_dict().items()})
    return decoder


def literal_step(network: LiteralVTADL, optimiser: torch.optim.Optimizer, images: Tensor, generator: torch.Generator):
    """One training step; both losses as floats, as the public code reads them after every step."""
    optimiser.zero_grad()
    reconstruction, density = network.losses(images, generator)
    (reconstruction + density).backward()
    optimiser.step()
    return [float(reconstruction.detach()), float(density.detach())]


@torch.no_grad()
def literal_scores(network: LiteralVTADL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Density maps ``(batch, H, H)`` and reconstruction errors ``(batch,)``, one image at a time."""
    maps, errors = [], []
    for image in images.split(1):
        encoded = network.encode(image)
        picture = network.reconstruct(encoded)
        side = math.isqrt(encoded.shape[1])
        grid = network.patch_nll(encoded).view(1, 1, side, side)
        maps.append(F.interpolate(grid, image.shape[-2:], mode="bilinear", align_corners=True)[0, 0])
        errors.append(F.mse_loss(picture, image) - grouped_ssim(image, picture))
    return torch.stack(maps), torch.stack(errors)
