"""decoder.py: squash, the reconstruction vector against a routing loop, and image sizes."""

import numpy as np
import pytest
import torch

from advit.decoder import Decoder, ReconstructionVector, squash


def test_squash_by_hand():
    found = squash(torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64))
    assert found[0].tolist() == pytest.approx([3 * 5 / 26, 4 * 5 / 26])
    assert found[1].tolist() == [0, 0]


def test_squash_has_a_finite_gradient_at_zero():
    v = torch.zeros(1, 4, requires_grad=True)
    squash(v).sum().backward()
    assert v.grad.isfinite().all()


def test_reconstruction_vector_is_what_routing_to_one_capsule_gives():
    """Dynamic routing (Sabour et al. 2017) in NumPy with one output capsule: three rounds change nothing."""
    torch.manual_seed(0)
    batch, tokens, dim, out = 2, 3, 4, 5
    layer = ReconstructionVector(tokens=tokens, dim=dim, out_dim=out).double()
    x = torch.randn(batch, tokens, dim, dtype=torch.float64)
    weight = layer.linear.weight.detach().numpy().reshape(out, tokens, dim)
    for b in range(batch):
        votes = np.stack([weight[:, n] @ x[b, n].numpy() for n in range(tokens)])  # (input capsule, out)
        logits = np.zeros((tokens, 1))
        for _ in range(3):
            coupling = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)  # over ONE output: always 1
            s = (coupling * votes).sum(axis=0)
            norm = np.linalg.norm(s)
            v = norm * s / (1 + norm**2)
            logits = logits + (votes @ v)[:, None]
        assert layer(x)[b].tolist() == pytest.approx(v.tolist(), rel=1e-10)


@pytest.mark.parametrize("size", [8, 24, 40, 96, 136, 512])
def test_decoder_gives_every_size_in_zero_to_one(size):
    image = Decoder(in_dim=6, image_size=size, channels=3, width=16)(torch.randn(2, 6) * 50)
    assert image.shape == (2, 3, size, size)
    assert image.min() >= 0 and image.max() <= 1
