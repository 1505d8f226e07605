import numpy as np
import pytest
import torch

from algo.codebook import MaskedLookup, Quantise, fit_scale, quantise
from algo.grouping import group, real_elements, ungroup
from algo.masked_kmeans import MaskedVectors, masked_kmeans
from algo.pruning import magnitude_masks
from hdl.config import MvqError


def sample(count, length, n, m, seed=0):
    weights = torch.randn(count, length, generator=torch.Generator().manual_seed(seed))
    return weights, magnitude_masks(weights, n, m)


def squared_distances(vectors, masks, codebook):
    """Float64 (NG, k), straight from eq. 2."""
    vectors, masks, codebook = (np.asarray(array, dtype=np.float64) for array in (vectors, masks, codebook))
    return (((vectors[:, None] - codebook) * masks[:, None]) ** 2).sum(axis=2)


# ---- grouping and pruning -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(32, 3, 3, 3), (20, 5, 1, 1), (7, 4, 3, 2), (40, 12)])
def test_group_is_the_papers_reshape_and_ungroup_its_inverse(shape):
    weight = torch.randn(shape)
    vectors = group(weight, 16)
    assert torch.equal(ungroup(vectors, shape), weight)
    flat = weight.reshape(shape[0], -1)
    taps = flat.shape[1]
    for vector in (0, taps - 1, len(vectors) - 1):
        channels = flat[vector // taps * 16 :, vector % taps][:16]
        assert torch.equal(vectors[vector, : len(channels)], channels)
        assert not vectors[vector, len(channels) :].any()
    assert int(real_elements(shape, 16).sum()) == weight.numel()


@pytest.mark.parametrize(("n", "m", "d"), [(4, 16, 16), (1, 2, 16), (2, 4, 8), (3, 16, 32), (4, 4, 4)])
def test_masks_keep_the_largest_n_of_every_m(n, m, d):
    vectors, masks = sample(200, d, n, m)
    assert (masks.reshape(-1, m).sum(dim=1) == n).all()
    kept = vectors.abs().masked_fill(~masks, torch.inf).reshape(-1, m).amin(dim=1)
    dropped = vectors.abs().masked_fill(masks, 0).reshape(-1, m).amax(dim=1)
    assert (kept >= dropped).all()


def test_masks_of_equal_weights_keep_the_first():
    assert magnitude_masks(torch.zeros(1, 8), 2, 4).tolist() == [[True, True, False, False] * 2]


@pytest.mark.parametrize(
    ("n", "m", "d", "named"), [(5, 4, 8, "n = 5"), (0, 4, 8, "n = 0"), (2, 16, 24, "vector_length = 24")]
)
def test_masks_that_cannot_be(n, m, d, named):
    with pytest.raises(MvqError, match=named):
        magnitude_masks(torch.ones(3, d), n, m)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_not_finite(bad):
    vectors = torch.ones(4, 16)
    vectors[2, 3] = bad
    masks = torch.ones(4, 16, dtype=torch.bool)
    with pytest.raises(MvqError, match="finite"):
        magnitude_masks(vectors, 4, 16)
    with pytest.raises(MvqError, match="finite"):
        masked_kmeans(vectors, masks, 2)
    with pytest.raises(MvqError, match="finite"):
        fit_scale(vectors)


# ---- masked k-means -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "d", "n", "m", "k"),
    [
        (6000, 8, 1, 4, 40),
        (500, 16, 4, 16, 64),
        (3000, 16, 1, 2, 30),
        (700, 8, 8, 8, 33),
        (60, 32, 3, 16, 60),
        (9, 4, 1, 4, 1),
    ],
)
def test_assignment_is_the_exact_minimum(count, d, n, m, k):
    vectors, masks = sample(count, d, n, m)
    data = MaskedVectors(vectors, masks)
    codebook = data.initial(k, 1)
    for _ in range(3):
        assignment = data.assign(codebook)
        distances = squared_distances(vectors, masks, codebook)
        assert np.allclose(distances[np.arange(count), assignment], distances.min(axis=1), rtol=0, atol=1e-12)
        assert np.allclose(data.errors(codebook, assignment), distances.min(axis=1), atol=1e-9)
        codebook = data.update(codebook, assignment)


def test_assignment_where_float32_cannot_tell_codewords_apart():
    vectors, masks = sample(400, 16, 4, 16)
    base = (vectors[0] * masks[0]).numpy()
    codebook = np.repeat(base[None], 40, axis=0)
    codebook *= 1 + np.arange(40, dtype=np.float32)[::-1, None] * np.float32(2e-7)
    codebook = np.concatenate([codebook, codebook[5:6]])  # an exact tie goes to the first
    distances = squared_distances(vectors, masks, codebook)
    assignment = MaskedVectors(vectors, masks).assign(codebook)
    assert np.allclose(distances[np.arange(400), assignment], distances.min(axis=1), rtol=1e-14, atol=1e-15)
    assert assignment.max() < 40


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 20])
@pytest.mark.parametrize("n", [1, 4])
def test_assignment_in_chunks_of_any_size(size, n):
    vectors, masks = sample(777, 4, n, 4)
    data = MaskedVectors(vectors, masks, chunk=size)
    codebook = data.initial(10, 0)
    assert np.array_equal(data.assign(codebook), squared_distances(vectors, masks, codebook).argmin(axis=1))


@pytest.mark.parametrize("threads", [1, 2])
def test_assignment_is_the_same_with_any_number_of_threads(threads):
    vectors, masks = sample(4000, 8, 1, 4)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        data = MaskedVectors(vectors, masks)
        found = data.assign(data.initial(64, 0))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found, squared_distances(vectors, masks, data.initial(64, 0)).argmin(axis=1))


@pytest.mark.parametrize(("count", "n", "k"), [(1500, 1, 37), (700, 4, 64), (50, 4, 1)])
@pytest.mark.parametrize("chunk", [64, None])
def test_torch_on_a_device_gives_the_same_to_the_bit(count, n, k, chunk):
    vectors, masks = sample(count, 8, n, 4 if n < 4 else 8)
    ours = masked_kmeans(vectors, masks, k, iterations=5)
    found = masked_kmeans(vectors, masks, k, iterations=5, device="cpu", chunk=chunk)
    assert torch.equal(found.codebook, ours.codebook)
    assert torch.equal(found.assignment, ours.assignment)
    assert found.sse == ours.sse


def test_a_device_computes_as_exactly_whatever_torch_is_set_to():
    vectors, masks = sample(500, 16, 4, 16)
    data = MaskedVectors(vectors, masks, "cpu")
    codebook = data.initial(64, 0)
    expected = squared_distances(vectors, masks, codebook).argmin(axis=1)
    torch.set_float32_matmul_precision("medium")
    try:
        assert np.array_equal(data.assign(codebook), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("scale", [1e-21, 1e-18, 1e19])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_assignment_where_float32_underflows_or_overflows(scale, device):
    vectors, masks = sample(300, 8, 2, 4)
    vectors = vectors * scale
    data = MaskedVectors(vectors, masks, device)
    codebook = data.initial(20, 0)
    distances = squared_distances(vectors, masks, codebook)
    found = distances[np.arange(300), data.assign(codebook)]
    assert np.allclose(found, distances.min(axis=1), rtol=1e-9, atol=1e-12 * scale**2)


def test_a_device_that_is_not_there():
    with pytest.raises(MvqError, match=r"device = 'nowhere'.*'cpu'"):
        MaskedVectors(np.ones((3, 4)), np.ones((3, 4), bool), device="nowhere")


@pytest.mark.parametrize("threads", [1, 3])
def test_update_and_errors_are_the_same_with_any_number_of_threads(threads):
    vectors, masks = sample(999, 16, 4, 16)
    data = MaskedVectors(vectors, masks)
    codebook = data.initial(20, 0)
    assignment = data.assign(codebook)
    expected = data.update(codebook, assignment), data.errors(codebook, assignment)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = data.update(codebook, assignment), data.errors(codebook, assignment)
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_k_means_plus_plus_draws_by_the_squared_masked_distance():
    """The second codeword's frequencies, over many seeds, against the definition."""
    vectors, masks = sample(6, 4, 2, 4)
    data = MaskedVectors(vectors, masks)
    sparse = (vectors * masks).numpy()
    count, trials = np.zeros((6, 6)), 6000
    for seed in range(trials):
        pair = data.initial(2, seed, "k-means++")
        first, second = (int((sparse == codeword).all(axis=1).argmax()) for codeword in pair)
        count[first, second] += 1
    distances = squared_distances(vectors, masks, sparse).T  # (codeword, vector)
    chance = distances / distances.sum(axis=1, keepdims=True) / 6
    assert not count[chance == 0].any()
    assert np.abs(count / trials - chance).max() < 5 * np.sqrt(chance.max() / trials)


def test_k_means_plus_plus_finds_separated_clusters_that_random_codewords_miss():
    generator = torch.Generator().manual_seed(0)
    centres = 100 * torch.randn(40, 16, generator=generator)
    vectors = centres.repeat(25, 1) + torch.randn(1000, 16, generator=generator)
    masks = torch.ones_like(vectors, dtype=torch.bool)
    spread, random = (masked_kmeans(vectors, masks, 40, initial=method).sse for method in ("k-means++", "random"))
    assert spread == pytest.approx(16 * 1000, rel=0.1)
    assert random > 10 * spread


def test_k_means_plus_plus_with_fewer_distinct_vectors_than_codewords():
    vectors = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat(5, 1)
    data = MaskedVectors(vectors, torch.ones_like(vectors, dtype=torch.bool))
    assert data.initial(7, 0, "k-means++").shape == (7, 2)
    assert masked_kmeans(vectors, torch.ones_like(vectors, dtype=torch.bool), 7, initial="k-means++").sse == 0


def test_restarts_keep_the_best_seed():
    vectors, masks = sample(1500, 8, 2, 8)
    calls = []
    best = masked_kmeans(vectors, masks, 24, seed=5, restarts=3, progress=lambda *step: calls.append(step))
    runs = [masked_kmeans(vectors, masks, 24, seed=seed) for seed in (5, 6, 7)]
    assert best.sse == min(run.sse for run in runs)
    assert len({run.sse for run in runs}) == 3
    assert calls[-1] == (300, 300)
    assert calls == sorted(calls)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"initial": "best"}, "initial = 'best': must be one of random, k-means"),
        ({"restarts": 0}, "restarts = 0.*nearest legal value is 1"),
        ({"iterations": 0}, "iterations = 0"),
        ({"chunk": 0}, "chunk = 0"),
    ],
)
def test_clustering_settings_that_cannot_be(settings, named):
    with pytest.raises(MvqError, match=named):
        masked_kmeans(*sample(20, 16, 4, 16), 4, **settings)


def test_update_is_the_mean_of_the_surviving_weights():
    vectors, masks = sample(300, 8, 2, 8)
    codebook = np.full((5, 8), 7, np.float32)
    assignment = np.arange(300) % 4
    new = MaskedVectors(vectors, masks).update(codebook, assignment)
    for codeword in range(4):
        member = assignment == codeword
        total = (vectors * masks).double().numpy()[member].sum(axis=0)
        uses = masks.numpy()[member].sum(axis=0)
        assert np.allclose(new[codeword][uses > 0], total[uses > 0] / uses[uses > 0], rtol=1e-6)
    assert (new[4] == 7).all()


def test_update_keeps_an_element_that_no_mask_uses():
    masks = np.zeros((10, 4), bool)
    masks[:, 1] = True
    new = MaskedVectors(np.ones((10, 4)), masks).update(np.full((1, 4), -3, np.float32), np.zeros(10, np.int64))
    assert new.tolist() == [[-3, 1, -3, -3]]


def test_clustering_is_deterministic_and_the_seed_counts():
    vectors, masks = sample(2000, 16, 4, 16)
    first, again, other = (masked_kmeans(vectors, masks, 32, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.codebook, again.codebook)
    assert torch.equal(first.assignment, again.assignment)
    assert not torch.equal(first.codebook, other.codebook)
    assert first.sse == pytest.approx(squared_distances(vectors, masks, first.codebook).min(axis=1).sum(), rel=1e-2)


def test_clustering_stops_below_the_tolerance_and_beats_one_iteration():
    vectors, masks = sample(5000, 8, 2, 8)
    calls = []
    result = masked_kmeans(
        vectors, masks, 32, tolerance=0.01, iterations=200, progress=lambda *step: calls.append(step)
    )
    assert result.changed[-1] < 50 <= min(result.changed[:-1])
    assert result.sse < masked_kmeans(vectors, masks, 32, iterations=1).sse
    assert calls[0] == (1, 200)
    assert calls[-1] == (200, 200)


def test_masked_clustering_beats_common_clustering_of_the_same_vectors():
    """The paper's ablation, cases C and D (Tab. 3)."""
    vectors, masks = sample(4000, 16, 4, 16)
    sparse = vectors * masks
    everything = torch.ones_like(masks)
    common = masked_kmeans(sparse, everything, 64)
    used_sparsely = float((((sparse - common.codebook[common.assignment]) * masks) ** 2).sum())
    assert masked_kmeans(vectors, masks, 64).sse < 0.7 * used_sparsely


def test_empty_codewords_are_given_the_worst_vectors():
    vectors, masks = sample(500, 16, 4, 16)
    data = MaskedVectors(vectors, masks)
    codebook = np.concatenate([data.initial(8, 0), np.full((3, 16), 1e3, np.float32)])
    assignment = data.assign(codebook)
    errors = data.errors(codebook, assignment)
    assert data.reseed(codebook, assignment) == 3
    worst = np.argsort(-errors, kind="stable")[:3]
    assert np.allclose(data.errors(codebook, data.assign(codebook))[worst], 0)
    assert np.bincount(masked_kmeans(vectors, masks, 200, iterations=30).assignment, minlength=200).min() > 0


def test_as_many_codewords_as_vectors_fit_exactly():
    vectors, masks = sample(20, 16, 4, 16)
    assert masked_kmeans(vectors, masks, 20).sse == 0


def test_weights_that_are_all_equal():
    result = masked_kmeans(torch.zeros(50, 16), magnitude_masks(torch.zeros(50, 16), 4, 16), 8)
    assert result.sse == 0
    assert result.reseeded == 0


@pytest.mark.parametrize(("codewords", "named"), [(21, "number of vectors, 20"), (0, "codewords = 0")])
def test_codewords_that_cannot_be(codewords, named):
    with pytest.raises(MvqError, match=named):
        masked_kmeans(*sample(20, 16, 4, 16), codewords)


def test_shapes_that_do_not_fit():
    with pytest.raises(MvqError, match="same shape"):
        MaskedVectors(np.ones((3, 4)), np.ones((3, 5), bool))
    with pytest.raises(MvqError, match="no vectors"):
        MaskedVectors(np.ones((0, 4)), np.ones((0, 4), bool))


# ---- codebook -----------------------------------------------------------------------------------------------------


def test_quantise_is_symmetric_eight_bit():
    values = torch.tensor([-3.0, -0.26, 0.0, 0.24, 0.26, 3.0])
    assert quantise(values, 0.01).tolist() == [-128, -26, 0, 24, 26, 127]


def test_fitted_scale_is_at_least_as_good_as_the_full_range():
    values = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    values[0, 0] = 30.0
    weights = torch.ones_like(values)
    weights[0, 0] = 0.0
    full = float(values.abs().max()) / 127
    for importance in (None, weights):
        scale = fit_scale(values, importance)
        count = 1.0 if importance is None else importance

        def error(step, count=count):
            return float((count * (quantise(values, step) * step - values) ** 2).sum())

        assert full / 2 <= scale <= full * 1.0001
        assert error(scale) <= error(full)
    assert fit_scale(values, weights) < 0.6 * full
    assert fit_scale(torch.zeros(3)) == 1.0


def test_lsq_gradients():
    values = torch.tensor([-300.0, -0.3, 0.3, 300.0], requires_grad=True)
    scale = torch.tensor(1.0, requires_grad=True)
    Quantise.apply(values, scale).sum().backward()
    assert values.grad.tolist() == [0, 1, 1, 0]
    assert float(scale.grad) == pytest.approx((-128 + 0.3 - 0.3 + 127) / (4 * 127) ** 0.5)


def test_codeword_gradient_is_the_masked_mean():
    """Eq. 6, against a loop."""
    generator = torch.Generator().manual_seed(0)
    codebook = torch.randn(3, 4, generator=generator, requires_grad=True)
    assignment = torch.tensor([0, 0, 1, 0, 1])
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0]]).float()
    gradient = torch.randn(5, 4, generator=generator)
    vectors = MaskedLookup.apply(codebook, assignment, mask)
    assert torch.equal(vectors, codebook[assignment] * mask)
    vectors.backward(gradient)
    for codeword in range(3):
        for element in range(4):
            used = [float(gradient[p, element]) for p in range(5) if assignment[p] == codeword and mask[p, element]]
            expected = sum(used) / len(used) if used else 0.0
            assert float(codebook.grad[codeword, element]) == pytest.approx(expected, abs=1e-6)
