"""Blocks of rows, and which arithmetic their steps use."""

import warnings

import pytest
import torch

from advit import blocks as module
from advit.attention import Associations
from advit.blocks import blocks, fused, resolve_kernels, say_once
from advit.discrepancy import minimax_discrepancy
from advit.divergence import prior_block
from advit.minimax_attention import Minimax, minimax_attention
from advit.patches import squared_patch_distances


@pytest.fixture(autouse=True)
def forget():
    fused.cache_clear()
    say_once.cache_clear()
    yield
    fused.cache_clear()
    say_once.cache_clear()


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Kernels are those of a GPU: steps that torch.compile has fused."""
    for name in ("divergence", "minimax_attention"):
        monkeypatch.setattr(f"advit.{name}.resolve_kernels", lambda name, _: "compiled" if name == "fused" else name)


def layer():
    g = torch.Generator().manual_seed(0)
    q, k, v, towards = (torch.randn(2, 3, 16, 8, generator=g) for _ in range(4))
    leaves = [x.requires_grad_() for x in (q, k, v, torch.rand(2, 3, 16, generator=g) * 3 + 0.05)]
    return leaves, towards


def of_attention(kernels):
    leaves, towards = layer()
    out, value = minimax_attention(*leaves, Minimax(1e-4, "both", kernels))
    return out, value, *torch.autograd.grad([out, 0.7 * value], leaves, [towards, None])


def of_discrepancy(kernels):
    (q, k, _, sigma), _ = layer()
    value = minimax_discrepancy([Associations(q, k, sigma)], 1e-4, "both", kernels)
    return value, *torch.autograd.grad(value, [q, k, sigma])


@pytest.mark.parametrize("pairs, n, size", [(6, 16, 300), (6, 16, 1500), (7, 4, 200), (1, 9, 2**20), (0, 4, 200)])
def test_every_row_of_every_pair_is_in_one_block(pairs, n, size, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", size)
    seen = torch.zeros(pairs, n)
    for p, r in blocks(pairs, n, torch.zeros(0)):
        assert (seen[p, : r.start] == 1).all()  # the first rows of a pair come first, as add_rows takes for granted
        seen[p, r] += 1
        assert seen[p, r].numel() * n * 4 <= max(size, 4 * n)
    assert (seen == 1).all()


@pytest.mark.parametrize("compute", [of_attention, of_discrepancy])
@pytest.mark.parametrize("kernels", ["fused", "auto"])
def test_one_pass_computes_what_plain_steps_do(compute, kernels):
    """Where there is no compiler this compares the plain ones with themselves."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = compute(kernels)
    assert all("No C++ compiler" in str(w.message) for w in said), said
    for a, b in zip(found, compute("plain"), strict=True):
        assert (a - b).abs().max() <= 2e-5 * b.abs().max()


@pytest.mark.parametrize("compute", [of_attention, of_discrepancy])
def test_compiled_steps_compute_what_plain_ones_do(compute, on_a_gpu):
    """Where torch.compile fails, for want of a compiler, the plain ones are compared with themselves."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = compute("fused")
    given_up = [str(w.message) for w in said if "torch.compile failed" in str(w.message)]
    assert all("compiler" in message for message in given_up), given_up
    for a, b in zip(found, compute("plain"), strict=True):
        assert (a - b).abs().max() <= 2e-5 * b.abs().max()


def test_without_a_compiler_plain_steps_are_used_and_of_fused_it_is_said_once(monkeypatch):
    monkeypatch.setattr(module, "native_library", lambda: (None, "No C++ compiler"))
    expected = of_discrepancy("plain")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(of_discrepancy("auto")[1], expected[1])
    with pytest.warns(UserWarning, match="kernels=fused: kernels=plain is used. No C.. compiler$"):
        found = of_discrepancy("fused")
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of_discrepancy("fused")


def test_where_torch_compile_fails_the_plain_step_is_used_and_said_once(monkeypatch, on_a_gpu):
    calls = []

    def no_compiler(step, **_):
        def call(*arguments):
            calls.append(step.__name__)
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nlong trace")

        return call

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.warns(UserWarning, match="kernels=plain is used. InvalidCxxCompiler: No working C.. compiler found$"):
        found = of_discrepancy("fused")
    for a, b in zip(found, of_discrepancy("plain"), strict=True):
        assert torch.equal(a, b)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of_discrepancy("fused")
    assert calls == ["divergence_step"]


@pytest.mark.parametrize("kernels, cpu, gpu", [("plain", "plain", "plain"), ("fused", "native", "compiled"),
                                               ("auto", "native", "plain")])  # fmt: skip
def test_what_kernels_are_on_each_device(kernels, cpu, gpu, monkeypatch):
    monkeypatch.setattr(module, "native_library", lambda: (object(), ""))
    assert resolve_kernels(kernels, torch.zeros(1)) == cpu
    assert resolve_kernels(kernels, torch.zeros(1, device="meta")) == gpu


def test_unknown_kernels_are_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match=r"kernels='no such': choose one of plain, fused, auto$"):
        resolve_kernels("no such", torch.zeros(1))


def test_an_error_of_the_inputs_is_not_taken_for_a_missing_compiler(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda step, **_: lambda x: step(x))
    step = fused(lambda x: x @ x)
    with warnings.catch_warnings(), pytest.raises(RuntimeError, match="mat1 and mat2"):
        warnings.simplefilter("error")
        step(torch.zeros(2, 3))
    assert step(torch.eye(2)).equal(torch.eye(2))


@pytest.mark.parametrize("sigma", [1e-5, 0.05, 0.3, 2.0, 3.362])
def test_the_prior_has_no_denormal_numbers(sigma):
    """They take a CPU 50 times as long; and what stands for them is too small to be seen."""
    squared = squared_patch_distances(1024, slice(0, 40), torch.zeros(0))
    p = prior_block(torch.full((1, 40, 1), 0.5 / sigma**2), squared)
    assert p[p > 0].min() >= torch.finfo(torch.float32).tiny
    exact = torch.softmax(-0.5 / sigma**2 * squared.double(), dim=-1)
    assert (p - exact).abs().max() < 1e-6
