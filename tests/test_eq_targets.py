"""targets.py, moments.py and fit_target: whitening against NumPy, and its limits."""

import numpy as np
import pytest
import torch

from advit import targets
from advit.augment import augment
from advit.config import ADViTConfig, with_options
from advit.factors import without_factors
from advit.filters import feature_count
from advit.moments import STRENGTHS, Moments, prior_strength, total
from advit.networks import build_network, fit_target, training_terms
from advit.targets import FOLDS, LEAST_NEAR, NEAR, FilterTarget, PixelTarget, Unseen

FEATURES = feature_count(4)


def images(n=6, size=16, seed=0):
    g = torch.Generator().manual_seed(seed)
    smooth = torch.nn.functional.interpolate(torch.rand(n, 3, 6, 6, generator=g), size=(size, size), mode="bilinear")
    return (0.7 * smooth + 0.3 * torch.rand(n, 3, size, size, generator=g)).double()


def test_targets_of_the_fitted_images_are_white():
    target = PixelTarget(patch=4, channels=3, target_dim=7).double()
    x = images()
    target.fit(x[i : i + 2] for i in range(0, 6, 2))
    z = target(x).reshape(-1, 7).numpy()
    assert np.allclose(z.mean(axis=0), 0, atol=1e-9)
    assert np.allclose(np.cov(z.T, bias=True), np.eye(7), atol=1e-8)


def test_components_are_numpys_leading_ones():
    target = PixelTarget(patch=4, channels=3, target_dim=5).double()
    x = images()
    target.fit([x])
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).reshape(-1, 48).numpy()
    _, values, rows = np.linalg.svd(patches - patches.mean(axis=0), full_matrices=False)
    for k in range(5):
        ours = target.whitening[:, k].numpy()
        theirs = rows[k] / (values[k] / np.sqrt(len(patches)))
        assert min(np.abs(ours - theirs).max(), np.abs(ours + theirs).max()) < 1e-8 * np.abs(theirs).max() + 1e-10


def test_directions_without_signal_are_not_blown_up():
    target = PixelTarget(patch=2, channels=3, target_dim=12).double()
    grey = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double().expand(-1, 3, -1, -1)
    target.fit([grey])
    nudged = grey + torch.tensor([1 / 255, 0, -1 / 255]).view(1, 3, 1, 1)
    assert target.whitening.isfinite().all()
    assert (target(nudged) - target(grey)).abs().max() < 12


def textures(n, size=32, seed=0):
    """Images of random colour, contrast and coarseness: all features vary."""
    g = torch.Generator().manual_seed(seed)
    colour, noise = torch.rand(n, 3, 1, 1, generator=g), torch.rand(n, 3, size, size, generator=g) - 0.5
    coarse = torch.rand(n, 3, size // 4, size // 4, generator=g) - 0.5
    coarse = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    strength = torch.rand(2, n, 1, 1, 1, generator=g)
    return (0.2 + 0.6 * colour + 0.4 * (strength[0] * noise + strength[1] * coarse)).clamp(0, 1).double()


def filter_target(size=32, grid=2, cells=1, factors=0):
    return FilterTarget(image_size=size, grid=grid, cells=cells, levels=4, least_change=0.01, factors=factors).double()


def place_alone(target, x):
    """W_u^T (f_u - m_u), before anything else, of every image."""
    return torch.einsum("bud,ude->bue", target.features(x) - target.mean, target.whitening)


def test_filter_features_are_white_at_every_place_among_many_images():
    target, x = filter_target(), textures(500)
    target.fit(x[i : i + 1] for i in range(500))
    assert target(x).shape == (500, 4, 3 * FEATURES)
    z = place_alone(target, x).numpy()
    assert np.abs(z.mean(axis=0)).max() < 1e-9
    covariance = []
    for u in range(4):  # but for the variance of 0.01^2 that every feature is taken to have besides its own
        w = target.whitening[u].numpy()
        covariance.append(np.cov(z[:, u].T, bias=True) + 0.01**2 * w.T @ w)
        assert np.abs(covariance[-1] - np.eye(FEATURES)).max() < 0.5  # the prior draws the places together
    assert np.allclose(np.mean(covariance, axis=0), np.eye(FEATURES), atol=0.1)


def by_numpy(f, images=None, strength=24):
    """Mean and shrunk covariance of every place from features ``(n, places, 24)``, as the docstrings have them."""
    n, places, width = f.shape
    mean, images = f.mean(axis=0), images or n
    covariances = [np.cov(f[:, u].T, bias=True) if n > 1 else np.zeros((width, width)) for u in range(places)]
    pooled = sum(covariances) / places
    least = 0.01**2 * np.eye(width)
    return mean, [(images * c + strength * pooled) / (images + strength) + least for c in covariances]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_filter_statistics_are_numpys_and_the_target_s_length_is_the_mahalanobis_distance(count):
    target, x = filter_target(cells=2), textures(count)
    target.fit(x.split(1))
    mean, covariance = by_numpy(target.features(x).numpy())
    assert np.allclose(target.mean.numpy(), mean, atol=1e-9)
    new = textures(3, seed=5)
    z, away = target(new)[..., :FEATURES].numpy(), target.features(new).numpy() - mean  # R = I with so few images
    for u in range(16):
        inverse, w = np.linalg.inv(covariance[u]), target.whitening[u].numpy()
        assert np.allclose(w @ w.T, inverse, rtol=1e-6, atol=1e-6 * np.abs(inverse).max())
        assert np.allclose(w.T @ covariance[u] @ w, np.eye(FEATURES), atol=1e-6)
        for i in range(3):
            assert (z[i, u] ** 2).sum() == pytest.approx(away[i, u] @ inverse @ away[i, u], rel=1e-6)


def moments(f):
    found = Moments(*f.shape[1:], f.device)
    for picture in f:
        found.add(picture)
    return found


def test_moments_are_numpys_also_of_two_sets_together_and_about_another_mean():
    f = torch.randn(9, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    both, all_at_once, other = moments(f[:4]) + moments(f[4:]), moments(f), torch.full((3, 4), 0.3).double()
    assert both.count == 9 and torch.allclose(both.mean, f.mean(dim=0)) and torch.allclose(all_at_once.mean, both.mean)
    for u in range(3):
        away = (f[:, u] - f[:, u].mean(dim=0)).numpy()
        assert np.allclose(both.scatter[u], away.T @ away) and np.allclose(all_at_once.scatter[u], away.T @ away)
        away = f[:, u].numpy() - 0.3
        assert np.allclose(both.about(other)[u], away.T @ away / 9)


def halves(f, copies=0.0):
    """What ``prior_strength`` takes of two folds: the others' moments, with copies moved by plus and minus ``copies``,
    and their number of images, and each fold's own moments without copies."""
    parts = (f[::2], f[1::2])
    others = [(moments(torch.cat([h, h + copies, h - copies])), len(h)) for h in parts[::-1]]
    return others, [moments(h) for h in parts]


def test_moments_of_all_parts_but_one():
    f = torch.randn(9, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    parts = [moments(f[:4]), moments(f[4:6]), Moments(3, 4, torch.device("cpu")), moments(f[6:])]
    for but, rest in ((None, f), (1, torch.cat([f[:4], f[6:]]))):
        found, expected = total(parts, but), moments(rest)
        assert found.count == len(rest) and torch.allclose(found.scatter, expected.scatter)


def test_the_prior_is_as_strong_as_suits_the_other_half_by_slow_loops():
    g = torch.Generator().manual_seed(0)
    f = torch.randn(12, 5, 3, generator=g).double() * (0.5 + torch.rand(5, 3, generator=g).double())
    losses = {}
    for share in STRENGTHS:
        loss = 0.0
        for fitted, other in ((f[::2], f[1::2]), (f[1::2], f[::2])):
            pictures = torch.cat([fitted, fitted + 0.1, fitted - 0.1]).numpy()
            mean, covariance = by_numpy(pictures, 6, 3 * share)
            for u in range(5):
                away = other[:, u].numpy() - mean[u]
                squares = [v @ np.linalg.solve(covariance[u], v) for v in away]
                loss += (0.5 * np.mean(squares) + 0.5 * np.linalg.slogdet(covariance[u])[1]) / 5
        losses[3 * share] = loss
    assert len({round(v, 6) for v in losses.values()}) == len(STRENGTHS)
    assert prior_strength(*halves(f, copies=0.1), 0.01) == pytest.approx(min(losses, key=losses.get))


def test_places_that_are_alike_share_their_statistics_and_others_do_not():
    g = torch.Generator().manual_seed(0)
    alike = torch.randn(16, 40, 6, generator=g).double()
    assert prior_strength(*halves(alike), least=0.01) >= 6 * 16
    mixing = torch.linalg.qr(torch.randn(40, 6, 6, generator=g).double())[0] * torch.logspace(-2, 1, 6).double()
    different = torch.einsum("nud,ude->nue", torch.randn(300, 40, 6, generator=g).double(), mixing.transpose(1, 2))
    assert prior_strength(*halves(different), least=0.01) <= 6 / 2
    assert prior_strength([], halves(alike[:3])[1], least=0.01) == 6  # too few images to choose


def neighbourhoods_by_loops(r, side, cells, spread):
    """Gaussian means of the vectors of one image ``(places, D)`` around each place, no number beyond 3."""
    place = {}
    for u in range(side**2):
        patch, within = divmod(u, cells**2)
        row, column = divmod(patch, side // cells)
        place[u] = (row * cells + within // cells, column * cells + within % cells)
    found, r = np.zeros_like(r), r.clip(-3, 3)
    for u, (row, c) in place.items():
        weight = {v: np.exp(-0.5 * ((y - row) ** 2 + (x - c) ** 2) / spread**2) for v, (y, x) in place.items()}
        found[u] = sum(share * r[v] for v, share in weight.items()) / sum(weight.values())
    return found


@pytest.mark.parametrize("size, grid, cells", [(32, 2, 1), (48, 3, 2), (64, 8, 1), (32, 1, 1)])
def test_the_means_of_neighbourhoods_by_loops(size, grid, cells):
    target = filter_target(size, grid, cells)
    r = 2 * torch.randn(2, (grid * cells) ** 2, FEATURES, generator=torch.Generator().manual_seed(0)).double()
    assert r.abs().max() > 3
    for found, spread in zip(target.neighbourhoods(r), NEAR, strict=True):
        for i in range(2):  # the window's weights are float32
            assert np.allclose(found[i], neighbourhoods_by_loops(r[i].numpy(), grid * cells, cells, spread), atol=1e-6)


def factors_by_numpy(w, count):
    """Leading right singular vectors of pictures ``(n, places, D)``."""
    return np.linalg.svd(w.reshape(len(w), -1), full_matrices=False)[2][:count]


def unexplained(w, axes):
    flat = w.reshape(len(w), -1)
    return (flat - flat.clip(-3, 3) @ axes.T @ axes).reshape(w.shape)


def whitened_by_numpy(f, mean, covariance):
    roots = [np.linalg.cholesky(np.linalg.inv(c)) for c in covariance]
    return np.stack([(f[:, u] - mean[u]) @ roots[u] for u in range(f.shape[1])], axis=1)


def root(covariance, least=0.0):
    values, vectors = np.linalg.eigh(covariance)
    return vectors @ np.diag(values.clip(least) ** -0.5) @ vectors.T


@pytest.mark.parametrize("most, count", [(0, 0), (2, 2), (9, 3)])
def test_factors_r_and_v_are_numpys_of_the_folds_that_an_image_is_not_in(most, count):
    """12 images, each with two copies; a factor for 4 images, ``most`` at most."""
    target, x = filter_target(size=48, grid=3, cells=2, factors=most), textures(12, size=48)
    groups = [torch.stack([i, 0.95 * i, 1.03 * i]) for i in x]
    target.fit(groups)
    f = torch.stack([target.features(g) for g in groups])
    rest = [[i for i in range(12) if i % FOLDS != k] for k in range(FOLDS)]
    others = [(moments(f[rows].flatten(0, 1)), len(rows)) for rows in rest]
    strength = prior_strength(others, [moments(f[k::FOLDS, 0]) for k in range(FOLDS)], 0.01)
    f, stats, axes = f.numpy(), [], []
    for rows in rest:
        stats.append(by_numpy(f[rows].reshape(-1, 36, FEATURES), len(rows), strength))
        axes.append(factors_by_numpy(whitened_by_numpy(f[rows, :2].reshape(-1, 36, FEATURES), *stats[-1]), count))
    two = f[:, :2]
    r = np.stack([unexplained(whitened_by_numpy(two[i], *stats[i % FOLDS]), axes[i % FOLDS]) for i in range(12)])
    least = np.mean([0.01**2 * w.numpy().T @ w.numpy() for w in target.whitening], axis=0)
    again = root(np.einsum("ipud,ipue->de", r, r) / (12 * 2 * 36) + least)
    assert np.allclose(target.again, again, rtol=1e-5, atol=1e-6)
    for j, spread in enumerate(NEAR):
        s = np.concatenate([neighbourhoods_by_loops(i @ again, 6, 2, spread) for i in r[:, 0]])
        v = root(s.T @ s / len(s), LEAST_NEAR)
        assert np.allclose(target.near[j], v, rtol=1e-3, atol=1e-3 * np.abs(v).max())

    w = place_alone(target, torch.cat([g[:2] for g in groups]))
    every = factors_by_numpy(w.numpy(), count)
    kept = target.factors.numpy()
    assert np.allclose(kept[:count].T @ kept[:count], every.T @ every, atol=1e-8) and not kept[count:].any()
    z, new = target(textures(2, size=48, seed=5)), place_alone(target, textures(2, size=48, seed=5)).numpy()
    assert np.allclose(z[..., :FEATURES], unexplained(new, every) @ target.again.numpy(), atol=1e-6)
    for j, s in enumerate(target.neighbourhoods(z[..., :FEATURES])):
        assert torch.allclose(z[..., (1 + j) * FEATURES : (2 + j) * FEATURES], s @ target.near[j])


def test_the_target_of_a_training_image_follows_from_the_folds_that_it_is_not_in(monkeypatch):
    """With the least change as noise; PixelTarget, which has nothing to leave out, does not look at it."""
    monkeypatch.setattr(targets, "prior_strength", lambda *_: 24.0)  # one number that follows from all folds
    x = textures(12, size=48)
    folds, noise = torch.arange(12) % FOLDS, torch.randn(12, 36, FEATURES).double()

    def fitted(data):
        target = filter_target(size=48, grid=3, cells=2, factors=2)
        assert not target.crossed
        target.fit(data.split(1))
        target.again.copy_(torch.eye(FEATURES))  # R is of all folds
        assert target.crossed
        return target

    target = fitted(x)
    whole = target(x, Unseen(folds))[..., :FEATURES]
    for k in range(FOLDS):
        exchanged = x.clone()
        exchanged[k::FOLDS] = textures(12 // FOLDS, size=48, seed=9 + k)  # the images of one fold
        found = fitted(exchanged)(x, Unseen(folds))[..., :FEATURES]
        assert [torch.allclose(a, b) for a, b in zip(found, whole, strict=True)] == (folds == k).tolist()
    one_by_one = [target(x[i : i + 1], Unseen(folds[i : i + 1]))[..., :FEATURES] for i in range(12)]
    assert torch.allclose(torch.cat(one_by_one), whole)
    noisy = target(x, Unseen(folds, noise))[..., :FEATURES] - whole
    for i, k in enumerate(folds.tolist()):
        flat = torch.einsum("ud,ude->ue", 0.01 * noise[i], target.other_whitening[k])[None]
        f = target.features(x[i : i + 1]) - target.other_mean[k]
        before, axes = torch.einsum("bud,ude->bue", f, target.other_whitening[k]), target.other_factors[k]
        change = without_factors(before + flat, axes) - without_factors(before, axes)
        assert torch.allclose(noisy[i : i + 1], change, atol=1e-9)
    pixels = PixelTarget(patch=4, channels=3, target_dim=5).double()
    pixels.fit([x])
    assert torch.equal(pixels(x, Unseen(folds, noise)), pixels(x))


def test_of_fewer_images_than_folds_there_are_no_statistics_of_others():
    target = filter_target(size=48, grid=3, cells=2, factors=2)
    target.fit(textures(targets.LEAST_IMAGES - 1, size=48).split(1))
    assert not target.crossed and not target.factors.any()
    assert all(torch.equal(mean, target.mean) for mean in target.other_mean)
    x = textures(3, size=48)
    assert torch.allclose(target(x, Unseen(torch.arange(3))), target(x))


def test_training_takes_targets_as_of_images_not_seen(monkeypatch):
    """The folds and a draw of N(0, 1) reach the target, from a step's generator."""
    network, seen = fitted_network(), []
    inner = network.target.forward
    monkeypatch.setattr(network.target, "forward", lambda x, unseen=None: seen.append(unseen) or inner(x, unseen))
    x, folds = textures(2).double(), torch.tensor([1, 0])
    training_terms(network.train(), x, torch.Generator().manual_seed(0), folds)
    training_terms(network.train(), x, torch.Generator().manual_seed(0), folds)
    training_terms(network.train(), x, torch.Generator().manual_seed(0))
    assert torch.equal(seen[0].folds, folds) and seen[0].noise.shape == (2, 16, FEATURES) and seen[2] is None
    assert torch.equal(seen[0].noise, seen[1].noise) and abs(seen[0].noise.std() - 1) < 0.1


def test_training_targets_vary_as_those_of_new_images_and_more_than_seen_ones():
    """Mean square of r: about 1 of training images under the other folds, less of the same ones as if they were new."""
    x = textures(80, size=48)
    target = filter_target(size=48, grid=3, cells=2, factors=20)
    target.fit(x[:40].split(1))
    noise = torch.randn(40, 36, FEATURES, generator=torch.Generator().manual_seed(0)).double()
    crossed = target(x[:40], Unseen(torch.arange(40) % FOLDS, noise))[..., :FEATURES].square().mean()
    seen, new = (target(part)[..., :FEATURES].square().mean() for part in (x[:40], x[40:]))
    assert crossed == pytest.approx(1, abs=0.05)
    assert seen < 0.8 * new and abs(new - crossed) < abs(new - seen)


def test_a_faint_change_of_a_neighbourhood_stands_out_from_its_mean():
    """Against the spread among unseen images, a change of all places of a region is longer in V s than in w."""
    x = textures(60, size=64) * 0.2 + 0.4
    target = filter_target(size=64, grid=8)
    target.fit(x[:50].split(1))
    changed = x[50:].clone()
    changed[..., 16:48, 16:48] = 0.9 * changed[..., 16:48, 16:48]
    inner = [8 * row + column for row in (3, 4) for column in (3, 4)]

    def gap(part):
        sound, other = (target(v)[:, inner][..., part].square().sum(dim=-1) for v in (x[50:], changed))
        return ((other.mean() - sound.mean()) / sound.std()).item()

    assert gap(slice(FEATURES, None)) > 1.1 * gap(slice(0, FEATURES)) > 0


def test_identical_images_and_a_single_one_are_finite_and_lie_at_zero():
    """Without any spread the unit of every feature is the least change, 0.01."""
    one = textures(1)
    for x in (one, one.expand(4, -1, -1, -1), torch.full((3, 3, 32, 32), 0.3).double()):
        target = filter_target(cells=2)
        target.fit(x.split(1))
        assert target(x).abs().max() < 1e-6
        assert torch.allclose(target.whitening, 100 * torch.eye(FEATURES, dtype=torch.float64), atol=1e-5)
        away = target.features(textures(1, seed=3)) - target.features(x[:1])
        assert torch.allclose(target(textures(1, seed=3))[..., :FEATURES], 100 * away, rtol=1e-6, atol=1e-4)


def test_places_of_a_patch_follow_each_other_row_by_row():
    target = filter_target(size=48, grid=3, cells=2)
    x = textures(2, size=48)
    f, bank = target.features(x), target.bank(x)
    target.fit([x])
    for row in range(6):
        for column in range(6):
            u = 4 * (3 * (row // 2) + column // 2) + 2 * (row % 2) + column % 2
            assert torch.equal(f[:, u], bank[:, :, row, column])
    changed = x.clone()
    changed[..., 32:40, 8:16] = 1 - changed[..., 32:40, 8:16]  # row 4, column 1 of places
    for now, before in ((target.features(changed), f), (target(changed)[..., :FEATURES], target(x)[..., :FEATURES])):
        moved = (now - before).square().sum(dim=-1)
        assert moved.argmax(dim=1).tolist() == [4 * (3 * 2 + 0) + 1] * 2
        assert moved[:, 4 * (3 * 0 + 2) + 1].max() < 0.002 * moved.max()  # the far corner


def fitted_network(target_of="filters", seed=0, **options):
    config = with_options(
        ADViTConfig(),
        dict(image_size=32, patch=8, dim=8, depth=1, heads=1, mlp_dim=8, bottleneck=4, components=1, target_dim=6,
             density_target=target_of, precision="float64", **options),
    )  # fmt: skip
    pixels = (textures(3) * 255).to(torch.uint8)
    network = build_network(config, 0)
    fit_target(network, lambda indices: pixels[indices], 3, seed)
    return network


def fitted(*args, **options):
    return fitted_network(*args, **options).target, (textures(3) * 255).to(torch.uint8).float() / 255


def test_filters_are_fitted_to_each_image_and_five_changed_copies_of_it():
    target, x = fitted(shift=4, brightness=0.1, seed=3)
    g = torch.Generator().manual_seed(3)
    copies = [torch.cat([i[None], augment(i[None].expand(5, -1, -1, -1), 4, 0.1, g)]) for i in x]
    mean, covariance = by_numpy(target.features(torch.cat(copies).double()).numpy(), images=3)
    assert np.allclose(target.mean.numpy(), mean, atol=1e-9)
    w = target.whitening[5].numpy()
    assert np.allclose(w.T @ covariance[5] @ w, np.eye(FEATURES), atol=1e-6)
    again, other = fitted(shift=4, brightness=0.1, seed=3)[0], fitted(shift=4, brightness=0.1, seed=4)[0]
    assert torch.equal(again.whitening, target.whitening) and not torch.equal(other.mean, target.mean)


@pytest.mark.parametrize("target_of, options", [("filters", {}), ("pixels", dict(shift=4, brightness=0.1))])
def test_without_changes_in_training_and_for_pixels_the_images_alone_are_fitted(target_of, options):
    target, x = fitted(target_of, **options)
    alone = fitted(target_of, **options, seed=9)[0]
    assert torch.equal(alone.whitening, target.whitening)
    alone.fit(x.split(1) if target_of == "filters" else [x])
    assert torch.allclose(alone.mean, target.mean, atol=1e-9)
    assert torch.allclose(alone.whitening, target.whitening, rtol=1e-5, atol=1e-6 * target.whitening.abs().max())
