"""rows.cpp against slow float64 formulas and the plain steps, and what happens without a compiler."""

import sys

import pytest
import torch

from advit import native
from advit.divergence import LOWEST, divergence_of, prior_block, row_divergence
from advit.minimax_attention import Minimax, minimax_attention
from advit.native import attention_rows, compiled, divergence_rows, native_library
from advit.patches import squared_patch_distances

needs_compiler = pytest.mark.skipif(native_library()[0] is None, reason=f"rows.cpp: {native_library()[1]}")


def rows(dtype=torch.float32, n=36, scale=3.0):
    """Logits of three pairs and five rows of n patches, a, D^2, weights."""
    g = torch.Generator().manual_seed(n)
    logits = scale * torch.randn(3, 5, n, generator=g, dtype=torch.float64)
    sigma = torch.rand(3, 5, 1, generator=g, dtype=torch.float64) * 3 + 0.2
    weight = torch.rand(3, 5, 1, generator=g, dtype=torch.float64)
    squared = squared_patch_distances(n, slice(2, 7), sigma)
    return [x.to(dtype) for x in (logits, 0.5 / sigma.square(), squared, weight)]


@needs_compiler
@pytest.mark.parametrize("n", [9, 16, 49, 1024])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 4e-6)])
def test_rows_equal_the_formulas_in_float64(n, dtype, tolerance):
    eps = 1e-3
    logits, a, squared, weight = (x.double() for x in rows(dtype, n))
    s = torch.softmax(logits, dim=-1)
    p = prior_block(a, squared)
    value, mean_h, d_a, s_h = row_divergence(s, p, squared, eps, (True, True))
    expected = [value, mean_h, d_a, *(x.amax(dim=-1, keepdim=True) for x in (logits, s, p))]
    given = rows(dtype, n)
    found = divergence_rows(*given[:3], eps, LOWEST)
    for x, y in zip([*found, given[0]], [*expected, s], strict=True):
        assert (x - y).abs().max() <= tolerance * y.abs().max().clamp_min(1)
    given = rows(dtype, n)
    divergence_rows(*given[:3], eps, LOWEST, given[3])
    gradient = (1 - eps) * weight * (s_h - s * mean_h)
    assert (given[0] - gradient).abs().max() <= tolerance * gradient.abs().max()


@needs_compiler
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_rows_of_the_backward_pass_equal_the_formulas_in_float64(dtype, tolerance):
    eps, weight = 1e-3, 0.3
    logits, a, squared, constant = rows(dtype)
    inner = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    peaks = divergence_rows(logits.clone(), a, squared, eps, LOWEST)[3:]
    exact = [x.double().clone() for x in (logits, inner, a, squared, constant)]
    attention_rows(logits, inner, a, squared, peaks, constant, weight, eps, LOWEST)
    s, p, c = torch.softmax(exact[0], dim=-1), prior_block(exact[2], exact[3]), eps / (36 * (1 - eps))
    u = (p + c) / (s + c)
    expected = s * (exact[1] + exact[4] + weight * (u + u.log()))
    assert (logits - s).abs().max() <= tolerance
    assert (inner - expected).abs().max() <= tolerance * expected.abs().max()


@needs_compiler
def test_exponentials_and_logarithms_are_exact_to_rounding():
    """Two patches, S = (1, e^-x) / (1 + e^-x), P in halves: every exponent from 0 to the lowest, and every quotient."""
    x = torch.linspace(0, -LOWEST, 20001)
    logits = torch.stack([torch.zeros_like(x), -x], dim=-1)[None].contiguous()
    eps = 1e-5
    found = divergence_rows(logits, torch.zeros(1, len(x), 1), torch.zeros(len(x), 2), eps, LOWEST)
    small = torch.exp(-x.double())
    s = torch.stack([torch.ones_like(small), small], dim=-1) / (1 + small[:, None])
    assert ((logits[0] - s).abs() / s).max() < 3e-7
    c = eps / (2 * (1 - eps))
    value = (1 - eps) * ((s - 0.5) * ((s + c) / (0.5 + c)).log()).sum(dim=-1)
    assert ((found[0, 0, :, 0] - value).abs() / value.clamp_min(1e-3)).max() < 1e-5


@needs_compiler
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(bad):
    for place in range(2):
        given = rows()
        given[place][1, 2, 0] = bad
        value = divergence_rows(*given[:3], 1e-3, LOWEST)[0]
        assert not value[1, 2].isfinite()
        assert value.isfinite().sum() >= value.numel() - 1


@needs_compiler
def test_logits_that_cannot_be_written_to_in_their_order_are_refused():
    logits, a, squared, _ = rows()
    with pytest.raises(ValueError, match="must be contiguous and of one dtype"):
        divergence_rows(logits.transpose(0, 1), a.transpose(0, 1), squared, 1e-3, LOWEST)
    with pytest.raises(ValueError, match="must be contiguous and of one dtype"):
        attention_rows(logits, logits.double(), a, squared, torch.ones(3, *a.shape), a, 0.1, 1e-3, LOWEST)


@needs_compiler
def test_no_result_is_denormal():
    """They take a CPU 50 times as long."""
    given = rows(scale=60.0)
    divergence_rows(*given[:3], 1e-4, LOWEST)
    assert given[0].abs().min() >= torch.finfo(torch.float32).tiny


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bits_do_not_depend_on_the_number_of_threads(threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        given = rows(n=400)
        found = divergence_rows(*given[:3], 1e-4, LOWEST)
        torch.set_num_threads(1)
        again = rows(n=400)
        assert torch.equal(found, divergence_rows(*again[:3], 1e-4, LOWEST)) and torch.equal(given[0], again[0])
    finally:
        torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("block_bytes", [300, 1500, 2**21])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 2e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("phases", ["both", "maximise", "minimise", "none"])
def test_attention_in_one_pass_equals_the_plain_one(phases, dtype, tolerance, block_bytes, monkeypatch):
    monkeypatch.setattr("advit.blocks.BLOCK_BYTES", block_bytes)
    full = torch.float64 if dtype == torch.float64 else torch.float32
    g = torch.Generator().manual_seed(0)
    q, k, v, towards = (torch.randn(2, 3, 16, 5, generator=g, dtype=full).mul_(2).to(dtype) for _ in range(4))
    leaves = [x.requires_grad_() for x in (q, k, v, torch.rand(2, 3, 16, generator=g, dtype=full) * 3 + 0.05)]

    def results(kernels):
        out, value = minimax_attention(*leaves, Minimax(1e-4, phases, kernels))
        found = torch.autograd.grad([out, 0.7 * value], leaves, [towards, None], allow_unused=True)
        return out.detach(), value.detach(), *found

    for a, b in zip(results("fused"), results("plain"), strict=True):
        assert (a is None) == (b is None)
        assert a is None or (a - b).abs().max() <= tolerance * b.abs().max()


@needs_compiler
@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True), (False, False)])
def test_divergence_in_one_pass_equals_the_plain_one(needed):
    g = torch.Generator().manual_seed(4)
    q, k = (torch.randn(3, 16, 5, generator=g, dtype=torch.float64) for _ in range(2))
    sigma, weight = (torch.rand(3, 16, generator=g, dtype=torch.float64) + 0.3 for _ in range(2))
    for a, b in zip(*(divergence_of(q, k, sigma, 1e-4, weight, needed, x) for x in ("fused", "plain")), strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.fixture
def compilers(tmp_path, monkeypatch):
    """A folder of compilers that this process finds; nothing else is found."""
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def script(path, text):
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(0o755)
    return path


def test_no_compiler_is_said_with_the_names_that_were_tried(compilers):
    with pytest.raises(OSError, match=r"No C\+\+ compiler: none of c\+\+, g\+\+, clang\+\+ is found; CXX can name"):
        compiled()


@pytest.mark.skipif(sys.platform == "win32", reason="the compilers of this test are scripts with a #! line")
def test_a_compiler_that_fails_is_named_with_what_it_said_first(compilers):
    script(compilers / "g++", "import sys; sys.exit('rows.cpp: no such architecture\\nmore')")
    with pytest.raises(OSError, match=r"compiler g\+\+ failed: rows.cpp: no such architecture$"):
        compiled()


@pytest.mark.skipif(sys.platform == "win32", reason="the compilers of this test are scripts with a #! line")
def test_a_compiler_that_makes_no_library_is_an_error(compilers, monkeypatch):
    path = script(compilers / "other", "import sys; open(sys.argv[sys.argv.index('-o') + 1], 'w').write('nothing')")
    monkeypatch.setenv("CXX", str(path))
    with pytest.raises(OSError):
        compiled()


def test_why_there_is_no_library_is_kept(compilers):
    native_library.cache_clear()
    try:
        library, why = native_library()
        assert library is None and why.startswith("No C++ compiler")
    finally:
        native_library.cache_clear()


@needs_compiler
def test_options_that_a_compiler_does_not_know_are_left_out(monkeypatch):
    monkeypatch.setattr(native, "BEST_FIRST", (("-march=no-such-machine",), ()))
    assert compiled().divergence_float32
