"""rows.cpp against slow float64 formulas and the plain steps, and what happens without a compiler."""

import sys

import pytest
import torch

from advit import native
from advit.divergence import LOWEST, divergence_of, prior_block, row_divergence
from advit.minimax_attention import Minimax, minimax_attention
from advit.native import attention_rows, compiled, divergence_rows, native_library
from advit.patches import squared_patch_distances

needs_compiler = pytest.mark.skipif(native_library()[1].startswith("No C++ compiler"), reason=native_library()[1])


@pytest.fixture
def calls(monkeypatch):
    """Names of the functions of rows.cpp that were called."""
    names, call = [], native._call
    monkeypatch.setattr(native, "_call", lambda name, *rest: (names.append(name), call(name, *rest)))
    return names


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
@pytest.mark.parametrize("sigma", [100.0, 0.3])
def test_every_exponential_and_logarithm_is_near_the_exact_one(sigma):
    """Two patches, S = (1, e^-x) / (1 + e^-x), x from 0 to the lowest exponent; P of halves, and far from them."""
    x, eps = torch.linspace(0, -LOWEST, 20001), 1e-5
    logits = torch.stack([torch.zeros_like(x), -x], dim=-1)[None].contiguous()
    squared, a = torch.tensor([0.0, 1.0]).expand(len(x), 2), torch.full((1, len(x), 1), 0.5 / sigma**2)
    found = divergence_rows(logits, a, squared, eps, LOWEST)
    small = torch.exp(-x.double())
    s = torch.stack([torch.ones_like(small), small], dim=-1) / (1 + small[:, None])
    p = torch.softmax(-a[0].double() * squared, dim=-1)
    assert ((logits[0] - s).abs() / s).max() < 3e-7
    c = eps / (2 * (1 - eps))
    log_t = ((s + c) / (p + c)).log()
    value, mean_h = (1 - eps) * ((s - p) * log_t).sum(dim=-1), (s * (log_t - (p + c) / (s + c))).sum(dim=-1)
    for y, exact in ((found[0], value), (found[1], mean_h)):
        assert ((y[0, :, 0] - exact).abs() / exact.abs().clamp_min(0.1)).max() < 4e-6


@needs_compiler
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("column", [0, 17, 35])
def test_what_is_not_finite_stays_so(bad, column):
    for place in range(2):
        given = rows()
        given[place][1, 2, column if place == 0 else 0] = bad
        found = divergence_rows(*given[:3], 1e-3, LOWEST, given[3])
        assert not found[:2, 1, 2].isfinite().any() and not given[0][1, 2].isfinite().any()
        assert found[0].isfinite().sum() == found[0].numel() - 1


@needs_compiler
def test_what_is_not_finite_stays_so_in_the_backward_pass():
    logits, a, squared, constant = rows()
    peaks, inner = divergence_rows(logits.clone(), a, squared, 1e-3, LOWEST)[3:], torch.ones_like(logits)
    constant[1, 2] = float("nan")
    attention_rows(logits, inner, a, squared, peaks, constant, 0.1, 1e-3, LOWEST)
    assert inner[1, 2].isnan().all() and inner.isfinite().sum() == inner.numel() - 36


@needs_compiler
def test_without_weight_a_bad_prior_takes_no_part(calls):
    """As in the plain steps: of a phase that does not move the series-association, P is not even looked at."""
    q, k, v, sigma = (x.requires_grad_() for x in (*(torch.randn(1, 2, 16, 5) for _ in range(3)), torch.ones(1, 2, 16)))
    sigma.data[0, 0, 3] = float("nan")
    for kernels in ("plain", "fused"):
        out, value = minimax_attention(q, k, v, sigma, Minimax(1e-4, "minimise", kernels))
        found = torch.autograd.grad([out, value], [q, k, v], [torch.ones_like(out), None])
        assert all(g.isfinite().all() for g in found) and value.isnan()
    assert calls == ["divergence", "attention"]


@needs_compiler
def test_logits_that_cannot_be_written_to_in_their_order_are_refused():
    logits, a, squared, _ = rows()
    for wrong in (logits.half(), torch.empty(5, 3, 36).transpose(0, 1), logits.to("meta")):
        with pytest.raises(ValueError, match="must be contiguous, on the CPU, and float32 or float64"):
            divergence_rows(wrong, a, squared, 1e-3, LOWEST)
    with pytest.raises(ValueError, match="must be contiguous, on the CPU, and float32 or float64"):
        attention_rows(logits, logits.double(), a, squared, torch.ones(3, *a.shape), a, 0.1, 1e-3, LOWEST)


@needs_compiler
def test_sizes_that_do_not_fit_are_refused():
    logits, a, squared, _ = rows()
    for wrong in ((a[:2], squared), (a, squared[:4]), (a, squared[:, :9]), (a[..., 0], squared)):
        with pytest.raises(ValueError, match="do not fit"):
            divergence_rows(logits, *wrong, 1e-3, LOWEST)
    with pytest.raises(ValueError, match="do not fit"):
        attention_rows(logits, logits.clone(), a, squared, torch.ones(3, 2, 5, 1), a, 0.1, 1e-3, LOWEST)


@needs_compiler
def test_the_default_device_of_pytorch_does_not_matter():
    given = rows()
    with torch.device("meta"):
        found = divergence_rows(*given[:3], 1e-3, LOWEST)
    assert found.device.type == "cpu" and found.isfinite().all()


@needs_compiler
def test_no_result_is_denormal():
    """They take a CPU 50 times as long. Weights are those of a mean over 10 million rows, and in units of 1000."""
    least = torch.finfo(torch.float32).tiny
    for scale in (1.0, 60.0):
        given = rows(scale=scale)
        divergence_rows(*given[:3], 1e-4, LOWEST)
        assert given[0].abs().min() >= least
        for weight in (1e-7, 1e3):
            given = rows(scale=scale)
            divergence_rows(*given[:3], 1e-4, LOWEST, torch.full_like(given[1], weight))
            assert given[0][given[0] != 0].abs().min() >= least


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
def test_attention_in_one_pass_equals_the_plain_one(phases, dtype, tolerance, block_bytes, monkeypatch, calls):
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
    assert set(calls) == {"divergence", "attention"}


@needs_compiler
@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True), (False, False)])
def test_divergence_in_one_pass_equals_the_plain_one(needed, calls):
    g = torch.Generator().manual_seed(4)
    q, k = (torch.randn(3, 16, 5, generator=g, dtype=torch.float64) for _ in range(2))
    sigma, weight = (torch.rand(3, 16, generator=g, dtype=torch.float64) + 0.3 for _ in range(2))
    for a, b in zip(*(divergence_of(q, k, sigma, 1e-4, weight, needed, x) for x in ("fused", "plain")), strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    assert calls == ["divergence"]


@pytest.fixture
def compilers(tmp_path, monkeypatch):
    """A folder of compilers that this process finds; nothing else is found."""
    if sys.platform == "win32":
        pytest.skip("the compilers of this test are scripts with a #! line")
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


def test_a_compiler_that_fails_is_named_with_what_it_said_last(compilers):
    script(compilers / "g++", "import sys; sys.exit(f'rows.cpp: {sys.argv[-4]}\\nmore')")
    with pytest.raises(OSError, match=r"compiler g\+\+ failed: rows.cpp: -fopenmp-simd$"):
        compiled()


@pytest.mark.parametrize("folder", ["plain", "with space"])
def test_cxx_is_a_file_or_a_command_with_options(compilers, monkeypatch, folder):
    (compilers / folder).mkdir()
    path = script(compilers / folder / "other", "import sys; sys.exit(' '.join(sys.argv[1:3]))")
    monkeypatch.setenv("CXX", str(path))
    with pytest.raises(OSError, match=r"failed: -O3 -std=c\+\+17$"):
        compiled()
    monkeypatch.setenv("CXX", f"'{path}' --quick")
    with pytest.raises(OSError, match=r"failed: --quick -O3$"):
        compiled()


def test_a_library_that_cannot_be_loaded_is_an_error_and_the_next_options_are_tried(compilers, monkeypatch):
    tried = compilers / "tried"
    made = "open(sys.argv[sys.argv.index('-o') + 1], 'w').write('nothing')"
    path = script(compilers / "other", f"import sys; open({str(tried)!r}, 'a').write('x'); {made}")
    monkeypatch.setenv("CXX", str(path))
    with pytest.raises(OSError, match=r"rows\.so"):
        compiled()
    assert len(tried.read_text()) == len(native.BEST_FIRST)


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
