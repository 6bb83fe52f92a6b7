"""pairs.cpp against slow float64 formulas and the plain steps, and what happens without a compiler."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from advit import native
from advit.attention import prior_association, series_association
from advit.divergence import divergence_of, row_divergence
from advit.minimax_attention import Minimax, RowPeaks, backward_step, minimax_attention
from advit.native import compiled, native_library, pair_attention, pair_attention_gradients, pair_divergence
from advit.patches import squared_patch_distances
from advit.precision import LOWEST

needs_compiler = pytest.mark.skipif(native_library()[1].startswith("No C++ compiler"), reason=native_library()[1])
EPS = 1e-3


@pytest.fixture
def calls(monkeypatch):
    """Names of the functions of pairs.cpp that were called."""
    names, call = [], native._call
    monkeypatch.setattr(native, "_call", lambda name, *rest: (names.append(name), call(name, *rest)))
    return names


def pairs(n=36, width=5, count=3, scale=2.0, dtype=torch.float32):
    """Queries, keys, values and a gradient ``(count, n, width)``, and a and weights ``(count, n)``."""
    g = torch.Generator().manual_seed(n)
    matrices = [scale * torch.randn(count, n, width, generator=g, dtype=torch.float64) for _ in range(4)]
    sigma, weight = (torch.rand(count, n, generator=g, dtype=torch.float64) for _ in range(2))
    return [x.to(dtype) for x in (*matrices, 0.5 / (3 * sigma + 0.2).square(), weight)]


def exact(q, k, a, eps=EPS):
    """S, P, D^2 and what :func:`row_divergence` finds, of full matrices in float64."""
    q, k, a = q.double(), k.double(), a.double()
    squared = squared_patch_distances(q.shape[1], slice(None), q)
    s, p = series_association(q, k), prior_association((0.5 / a).sqrt(), squared)
    return s, p, squared, row_divergence(s.clone(), p.clone(), squared, eps, (True, True))


def near(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


SIZES = [(4, 1), (9, 3), (16, 8), (36, 5), (49, 33), (64, 64), (256, 24), (1024, 16)]


@needs_compiler
@pytest.mark.parametrize("n, width", SIZES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_divergence_and_gradients_equal_the_formulas_in_float64(n, width, dtype, tolerance):
    q, k, _, _, a, weight = pairs(n, width, scale=1.0, dtype=dtype)
    s, _, _, (value, mean_h, d_a, s_h) = exact(q, k, a)
    d_logits = (1 - EPS) * weight[..., None] * (s_h - s * mean_h) * width**-0.5
    expected = value[..., 0], d_logits @ k.double(), d_logits.transpose(1, 2) @ q.double(), d_a[..., 0]
    for x, y in zip(pair_divergence(q, k, a, EPS, weight), expected, strict=True):
        assert x.dtype == dtype and near(x, y, tolerance)
    found = pair_divergence(q, k, a, EPS, None)
    assert found[1] is found[2] is None and near(found[0], expected[0], tolerance)


@needs_compiler
@pytest.mark.parametrize("n, width", SIZES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_attention_and_gradients_equal_the_formulas_in_float64(n, width, dtype, tolerance):
    q, k, v, d_out, a, _ = pairs(n, width, scale=1.0, dtype=dtype)
    s, p, squared, (value, mean_h, d_a, _) = exact(q, k, a)
    logits = q.double() @ k.double().transpose(1, 2) * width**-0.5
    rows = [value, mean_h, d_a, *(x.amax(dim=-1, keepdim=True) for x in (logits, s, p))]
    out, found = pair_attention(q, k, v, a, EPS)
    assert out.dtype == dtype and near(out, s @ v.double(), tolerance)
    assert all(near(x, y[..., 0], tolerance) for x, y in zip(found, rows, strict=True))
    for weight in (0.3, 0.0):
        expected = backward_step(
            *(x.double() for x in (q, k, v, a[..., None])), squared, RowPeaks(*rows[3:]), mean_h, EPS,
            s @ v.double(), d_out.double(), torch.tensor(weight, dtype=torch.float64),
        )  # fmt: skip
        got = pair_attention_gradients(q, k, v, a, found, out, d_out, weight, EPS)
        for x, y in zip(got, (expected[0], *(y.transpose(1, 2) for y in expected[1:])), strict=True):
            assert x.dtype == dtype and near(x, y, tolerance)


@needs_compiler
@pytest.mark.parametrize("sigma", [100.0, 0.3])
def test_every_exponential_and_logarithm_is_near_the_exact_one(sigma):
    """Four patches, S = (1, e^-x, e^-x, e^-x) / sum, x from 0 to the lowest exponent; P of quarters, and far from."""
    x, eps = torch.linspace(0, -LOWEST, 20001), 1e-5
    q, k = torch.ones(len(x), 4, 1), -x[:, None, None].repeat(1, 4, 1)
    k[:, 0] = 0
    a, v = torch.full((len(x), 4), 0.5 / sigma**2), torch.tensor([0.0, 1.0, 0.0, 0.0])[:, None].expand(len(x), 4, 1)
    out, found = pair_attention(q, k, v, a, eps)
    small = torch.exp(-x.double())
    s = torch.stack([torch.ones_like(small), small, small, small], dim=-1) / (1 + 3 * small[:, None])
    assert ((out[:, 0, 0] - s[:, 1]).abs() / s[:, 1]).max() < 3e-7
    p = torch.softmax(-a[0, 0].double() * torch.tensor([0.0, 1.0, 1.0, 2.0]), dim=-1)
    c = eps / (4 * (1 - eps))
    log_t = ((s + c) / (p + c)).log()
    value, mean_h = (1 - eps) * ((s - p) * log_t).sum(dim=-1), (s * (log_t - (p + c) / (s + c))).sum(dim=-1)
    for y, expected in ((found[0], value), (found[1], mean_h)):
        assert ((y[:, 0] - expected).abs() / expected.abs().clamp_min(0.1)).max() < 6e-6


@needs_compiler
@pytest.mark.parametrize("of, bad", [("q", "nan"), ("q", "inf"), ("k", "nan"), ("a", "nan"), ("a", "inf")])
def test_what_is_not_finite_stays_so_and_stays_where_it_is(bad, of):
    """A bad query or a makes its row bad, a bad key its pair; so does a bad row the gradient of its pair's keys."""
    q, k, v, d_out, a, weight = pairs()
    {"q": q, "k": k, "a": a}[of][1, 17] = float(bad)
    rows = slice(None) if of == "k" else 17
    value, d_q, d_k, _ = pair_divergence(q, k, a, EPS, weight)
    out, found = pair_attention(q, k, v, a, EPS)
    gradients = pair_attention_gradients(q, k, v, a, found, out, d_out, 0.1, EPS)
    for x in (value, d_q, found[0], gradients[0]):
        assert not x[1, rows].isfinite().any()
        assert x.isfinite().sum() == x.numel() - x[1, rows].numel()
    for x in (d_k, gradients[1]):
        assert not x[1].isfinite().any() and x[[0, 2]].isfinite().all()
    assert out[1, rows].isfinite().all() == (of == "a")


@needs_compiler
def test_without_weight_a_bad_prior_takes_no_part(calls):
    """As in the plain steps: of a phase that does not move the series-association, P is not even looked at."""
    q, k, v, sigma = (x.requires_grad_() for x in (*(torch.randn(1, 2, 16, 5) for _ in range(3)), torch.ones(1, 2, 16)))
    sigma.data[0, 0, 3] = float("nan")
    for kernels in ("plain", "fused"):
        out, value = minimax_attention(q, k, v, sigma, Minimax(1e-4, "minimise", kernels))
        found = torch.autograd.grad([out, value], [q, k, v], [torch.ones_like(out), None])
        assert all(g.isfinite().all() for g in found) and value.isnan()
    assert calls == ["forward", "backward"]


@needs_compiler
def test_of_a_value_that_no_loss_has_a_bad_prior_takes_no_part():
    """The plain steps multiply it by 0, which leaves NaN."""
    q, k, v, sigma = (x.requires_grad_() for x in (*(torch.randn(1, 2, 16, 5) for _ in range(3)), torch.ones(1, 2, 16)))
    sigma.data[0, 0, 3] = float("nan")
    for kernels, finite in (("fused", True), ("plain", False)):
        out, _ = minimax_attention(q, k, v, sigma, Minimax(1e-4, "both", kernels))
        (d_q,) = torch.autograd.grad(out.sum(), [q])
        assert d_q.isfinite().all() == finite


@needs_compiler
def test_tensors_of_another_device_or_size_are_refused():
    q, k, v, d_out, a, weight = pairs()
    out, found = pair_attention(q, k, v, a, EPS)
    with pytest.raises(ValueError, match="computes on the CPU"):
        pair_divergence(q, k.to("meta"), a, EPS, weight)
    with pytest.raises(ValueError, match="35 patches are no square grid, as 25 or 36 are"):
        pair_divergence(q[:, 1:], k[:, 1:], a[:, 1:], EPS, None)
    for wrong in ((q, k[:2], a), (q, k, a[:2]), (q, k, a[..., None]), (q[0], k[0], a[0]), (q, k[..., :4], a)):
        with pytest.raises(ValueError, match="do not fit"):
            pair_divergence(*wrong, EPS, None)
    for wrong in (weight[:, :4], q):
        with pytest.raises(ValueError, match="do not fit"):
            pair_divergence(q, k, a, EPS, wrong)
    for empty in (q[:, :0], q[..., :0]):
        with pytest.raises(ValueError, match="no patches, or patches without numbers"):
            pair_divergence(empty, empty, empty.sum(dim=-1), EPS, None)
    with pytest.raises(TypeError, match=r"must have one dtype; they have torch.float32, torch.float64"):
        pair_divergence(q, k.double(), a, EPS, None)
    with pytest.raises(ValueError, match="found has 1 numbers of a row; pair_attention finds 6"):
        pair_attention_gradients(q, k, v, a, found[:1], out, d_out, 0.1, EPS)
    with pytest.raises(ValueError, match="do not fit"):
        pair_attention(q, k, v[..., :4], a, EPS)
    for wrong in ((found[:, :2], out, d_out), (found, out[:, :4], d_out), (found, out, d_out[:2])):
        with pytest.raises(ValueError, match="do not fit"):
            pair_attention_gradients(q, k, v, a, *wrong, 0.1, EPS)


@needs_compiler
def test_tensors_may_lie_in_any_order():
    q, k, v, d_out, a, weight = pairs()
    turned = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (q, k, v, d_out, a, weight)]
    for x, y in zip(pair_divergence(*turned[:2], turned[4], EPS, turned[5]), pair_divergence(q, k, a, EPS, weight),
                    strict=True):  # fmt: skip
        assert torch.equal(x, y)
    out, found = pair_attention(q, k, v, a, EPS)
    assert torch.equal(out, pair_attention(*turned[:3], turned[4], EPS)[0])
    expected = pair_attention_gradients(q, k, v, a, found, out, d_out, 0.1, EPS)
    for x, y in zip(pair_attention_gradients(*turned[:3], turned[4], found, out, turned[3], 0.1, EPS), expected,
                    strict=True):  # fmt: skip
        assert torch.equal(x, y)


@needs_compiler
def test_no_pair_is_no_work():
    q, k, v, d_out, a, weight = (x[:0] for x in pairs())
    assert [x.shape for x in pair_divergence(q, k, a, EPS, weight)] == [a.shape, q.shape, q.shape, a.shape]
    out, found = pair_attention(q, k, v, a, EPS)
    assert out.shape == q.shape
    assert pair_attention_gradients(q, k, v, a, found, out, d_out, 0.1, EPS)[0].shape == q.shape


@needs_compiler
def test_no_memory_is_an_error_that_says_for_what():
    q, a = torch.zeros(0, 10**12, 5), torch.zeros(0, 10**12)
    with pytest.raises(MemoryError, match=r"no memory for associations of .* = \(0, 1000000000000, 5\)"):
        pair_divergence(q, q, a, EPS, None)


@needs_compiler
@pytest.mark.parametrize("q_dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_of_rows_have_the_dtype_of_sigma(q_dtype, dtype):
    q, k, v, _, a, weight = pairs()
    q, k, v, a, weight = q.to(q_dtype), k.to(q_dtype), v.to(q_dtype), a.to(dtype), weight.to(dtype)
    found = pair_divergence(q, k, a, EPS, weight)
    assert [x.dtype for x in found] == [dtype, q_dtype, q_dtype, dtype]
    assert [x.dtype for x in pair_attention(q, k, v, a, EPS)] == [q_dtype, dtype]


@needs_compiler
def test_the_default_device_of_pytorch_does_not_matter():
    q, k, _, _, a, weight = pairs()
    with torch.device("meta"):
        found = pair_divergence(q, k, a, EPS, weight)
    assert all(x.device.type == "cpu" and x.isfinite().all() for x in found)


@needs_compiler
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_no_result_is_denormal(scale):
    """They take a CPU 50 times as long. Weights are those of a mean over 10 million rows, and in units of 1000."""
    least = torch.finfo(torch.float32).tiny
    q, k, _, _, a, weight = pairs(scale=scale)
    eye = torch.eye(36).expand(3, 36, 36).contiguous()
    s, _ = pair_attention(*(torch.nn.functional.pad(x, (0, 31)) for x in (q, k)), eye, a, 1e-4)  # S itself
    assert s.abs().min() >= least
    for one in (1e-7, 1e3):
        for x in pair_divergence(q, k, a, 1e-4, torch.full_like(weight, one)):
            assert x[x != 0].abs().min() >= least


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bits_do_not_depend_on_the_number_of_threads(threads):
    q, k, v, d_out, a, weight = pairs(n=400)
    before = torch.get_num_threads()

    def all_results(threads):
        torch.set_num_threads(threads)
        out, found = pair_attention(q, k, v, a, EPS)
        gradients = pair_attention_gradients(q, k, v, a, found, out, d_out, 0.1, EPS)
        return *pair_divergence(q, k, a, EPS, weight), out, found, *gradients

    try:
        for x, y in zip(all_results(threads), all_results(1), strict=True):
            assert torch.equal(x, y)
    finally:
        torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("n, width", [(16, 5), (256, 24)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 2e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("phases", ["both", "maximise", "minimise", "none"])
def test_attention_of_pairs_equals_the_plain_one(phases, dtype, tolerance, n, width, calls):
    full = torch.float64 if dtype == torch.float64 else torch.float32
    g = torch.Generator().manual_seed(0)
    q, k, v, towards = (torch.randn(2, 3, n, width, generator=g, dtype=full).mul_(2).to(dtype) for _ in range(4))
    leaves = [x.requires_grad_() for x in (q, k, v, torch.rand(2, 3, n, generator=g, dtype=full) * 3 + 0.05)]

    def results(kernels):
        out, value = minimax_attention(*leaves, Minimax(1e-4, phases, kernels))
        found = torch.autograd.grad([out, 0.7 * value], leaves, [towards, None], allow_unused=True)
        return out.detach(), value.detach(), *found

    for a, b in zip(results("fused"), results("plain"), strict=True):
        assert (a is None) == (b is None)
        assert a is None or (a.dtype == b.dtype and near(a, b, tolerance))
    assert calls == ["forward", "backward"]


@needs_compiler
@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True), (False, False)])
def test_divergence_of_pairs_equals_the_plain_one(needed, calls):
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
    script(compilers / "g++", "import sys; sys.exit(f'pairs.cpp: {sys.argv[-4]}\\nmore')")
    with pytest.raises(OSError, match=r"compiler g\+\+ failed: pairs.cpp: -fopenmp-simd$"):
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
    with pytest.raises(OSError, match=r"pairs\.so"):
        compiled()
    assert len(tried.read_text()) == len(native.BEST_FIRST)


def test_why_there_is_no_library_is_kept(compilers):
    native_library.cache_clear()
    try:
        library, why = native_library()
        assert library is None and why.startswith("No C++ compiler")
    finally:
        native_library.cache_clear()


def test_without_a_library_a_call_says_why(monkeypatch):
    monkeypatch.setattr(native, "native_library", lambda: (None, "No C++ compiler: why"))
    q, k, _, _, a, _ = pairs()
    with pytest.raises(RuntimeError, match=r"No C\+\+ compiler: why"):
        pair_divergence(q, k, a, EPS, None)


@needs_compiler
def test_a_blank_cxx_names_no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", " ")
    assert compiled()


@needs_compiler
def test_on_a_mac_no_second_openmp_is_loaded(monkeypatch):
    commands, run = [], subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **given: commands.append(command) or run(command, **given))
    monkeypatch.setattr(native.sys, "platform", "darwin")
    assert compiled() and not any("-fopenmp" in command for command in commands)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [("-march=x86-64", "-fopenmp"), ("-march=native", "-mno-avx512f", "-fopenmp"), ("-march=native",), ()]
)
def test_every_set_of_instructions_and_threads_computes_the_same(options, monkeypatch):
    """Vectors of 16, 32 and 64 bytes, and threads without OpenMP."""
    given = [pairs(n, width, dtype=dtype) for n, width in SIZES for dtype in (torch.float32, torch.float64)]

    def results():
        for q, k, v, d_out, a, weight in given:
            out, found = pair_attention(q, k, v, a, EPS)
            gradients = pair_attention_gradients(q, k, v, a, found, out, d_out, 0.1, EPS)
            yield from (*pair_divergence(q, k, a, EPS, weight), out, found, *gradients)

    expected = list(results())
    monkeypatch.setattr(native, "BEST_FIRST", (options,))
    try:
        library = compiled(), ""
    except OSError as error:
        pytest.skip(f"options of another machine: {error}")
    monkeypatch.setattr(native, "native_library", lambda: library)
    for x, y in zip(results(), expected, strict=True):
        assert near(x, y, 1e-12 if x.dtype == torch.float64 else 1e-4)


@needs_compiler
def test_options_that_a_compiler_does_not_know_are_left_out(monkeypatch):
    monkeypatch.setattr(native, "BEST_FIRST", (("-march=no-such-machine",), ()))
    assert compiled().divergence_float32
