import dataclasses
import math

import numpy as np
import pytest
import torch

from algo import zoo
from algo.calibration import calibrate
from algo.compress import CompressSettings, compress, report
from algo.finetune import FinetuneSettings, finetune
from algo.grouping import group, ungroup
from algo.masked_kmeans import masked_kmeans
from algo.methods import METHODS
from algo.network import CompressedNetwork
from algo.pruning import magnitude_masks
from golden import lower
from golden.checkpoint import Checkpoint, CheckpointError, Codebook, DenseLayer, MvqLayer
from golden.masks import mask_code_width
from hdl.config import MvqError, preset

CODEBOOKS = [name for name, method in METHODS.items() if method.storage == "codebook"]
SMALL = {"codewords": 24, "iterations": 20}


def small(method, **settings):
    return CompressSettings(method=method, **SMALL, **settings)


def kept(weight, n=4, m=16):
    return ungroup(magnitude_masks(group(weight, m), n, m), weight.shape)


# ---- all methods ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_is_stored_to_the_bit(tmp_path, digits, digits_module, method):
    network = compress(digits_module, (1, 8, 8), small(method))
    before = [parameter.clone() for parameter in network.layers["conv3"].weight.parameters()]
    history = finetune(network, *digits[:2], FinetuneSettings(epochs=2, rate=3e-3))
    assert any(not torch.equal(a, b) for a, b in zip(before, network.layers["conv3"].weight.parameters(), strict=True))
    assert history[-1] < history[0] or history[-1] < 0.05
    accuracy = zoo.accuracy(network, *digits[2:])
    assert accuracy > 0.93
    network.to_checkpoint().save(tmp_path / "net")
    loaded = CompressedNetwork.from_checkpoint(Checkpoint.load(tmp_path / "net"))
    assert torch.equal(loaded(digits[2]), network(digits[2]))
    assert loaded.to_checkpoint()._files() == network.to_checkpoint()._files()
    assert loaded.settings["method"] == method
    assert torch.allclose(loaded.train()(digits[2][:8]), network(digits[2][:8]), atol=1e-3)
    assert len(report(network.to_checkpoint())["rows"]) == 4
    finetune(loaded, digits[0][:256], digits[1][:256], FinetuneSettings(epochs=1, rate=1e-4))
    assert zoo.accuracy(loaded, *digits[2:]) > accuracy - 0.03


@pytest.mark.parametrize("method", METHODS)
def test_first_convolution_and_classifier_are_int8_in_every_method(digits_module, method):
    checkpoint = compress(digits_module, (1, 8, 8), small(method)).to_checkpoint()
    for name in ("conv1", "fc"):
        assert isinstance(checkpoint.layers[name], DenseLayer)
        assert checkpoint.layers[name].bits == 8
    wanted = MvqLayer if method in CODEBOOKS else DenseLayer
    assert isinstance(checkpoint.layers["conv3"], wanted)
    if method in CODEBOOKS:
        assert (checkpoint.layers["conv3"].mask_codes is not None) == METHODS[method].sparse


@pytest.mark.parametrize("method", [name for name in METHODS if name != "pqf"])
def test_errors_are_of_all_weights_and_of_those_that_pruning_keeps(digits_module, method):
    network = compress(digits_module, (1, 8, 8), small(method))
    checkpoint = network.to_checkpoint()
    for name in ("conv2", "conv3"):
        weight = getattr(digits_module, name).weight.detach()
        scale = network.layers[name].weight.scale.detach().reshape(-1, 1, 1, 1)
        error = (weight - torch.from_numpy(checkpoint.weights(name)) * scale).double() ** 2
        found = network.statistics["layers"][name]
        assert found["sse"] == pytest.approx(float(error.sum()), rel=1e-5)
        assert found["masked_sse"] == pytest.approx(float(error[kept(weight)].sum()), rel=1e-5)
    layers = [network.statistics["layers"][name] for name in ("conv2", "conv3")]
    for key in ("sse", "masked_sse"):
        assert network.statistics["total"][key] == pytest.approx(sum(layer[key] for layer in layers))


def test_the_papers_ablation_orders_the_masked_errors(digits_module):
    """Tab. 3: D below A and B below C, at equal settings; C has the largest error, as zeros pull its codewords."""
    found = {
        method: compress(digits_module, (1, 8, 8), CompressSettings(method=method, vector_length=16, codewords=64))
        for method in ("mvq", "vq", "vq-sparse-dense", "vq-sparse")
    }
    masked = {method: network.statistics["total"]["masked_sse"] for method, network in found.items()}
    assert masked["mvq"] < 0.5 * min(masked["vq"], masked["vq-sparse-dense"])
    assert masked["vq-sparse"] >= 0.99 * masked["vq-sparse-dense"]


@pytest.mark.parametrize(("method", "prune"), [("vq", False), ("vq-sparse-dense", True), ("vq-sparse", True)])
def test_common_k_means_counts_every_element(digits_module, method, prune):
    network = compress(digits_module, (1, 8, 8), small(method))
    module = network.layers["conv3"].weight
    weight = digits_module.conv3.weight.detach()
    vectors = group(weight * kept(weight) if prune else weight, module.codebook.values.shape[1])
    expected = masked_kmeans(vectors, torch.ones_like(vectors, dtype=torch.bool), 24, iterations=20)
    assert torch.equal(module.codebook.values, expected.codebook)
    assert torch.equal(module.assignment, expected.assignment)
    zeros = (torch.from_numpy(network.to_checkpoint().weights("conv3")) == 0)[~kept(weight)]
    assert bool(zeros.all()) == METHODS[method].sparse


def test_defaults_are_the_papers_at_the_same_bits():
    for method, (d, k) in {"mvq": (16, 512), "vq-sparse": (16, 512), "vq": (8, 1024), "pqf": (8, 1024)}.items():
        settings = CompressSettings(method=method)
        assert (settings.vector_length, settings.codewords) == (d, k)
    assert CompressSettings(method="vq", codewords=99).codewords == 99
    assert CompressSettings(method="vq", vector_length=4).vector_length == 4
    masked, plain = CompressSettings(), CompressSettings(method="vq")
    bits = (math.log2(masked.codewords) + mask_code_width(masked.n, masked.m)) / masked.vector_length
    assert bits == math.log2(plain.codewords) / plain.vector_length == 1.25
    assert all(method.summary.endswith(".") for method in METHODS.values())


@pytest.mark.parametrize("method", CODEBOOKS)
def test_codebook_gradients_are_means_over_the_weights_that_are_rebuilt(digits, digits_module, method):
    network = compress(digits_module, (1, 8, 8), small(method))
    module = network.layers["conv3"].weight
    captured, original = {}, module.forward

    def capture():
        captured["weight"] = original()
        captured["weight"].retain_grad()
        return captured["weight"]

    module.forward = capture
    torch.nn.functional.cross_entropy(network.train()(digits[0][:16]), digits[1][:16]).backward()
    gradient = group(captured["weight"].grad, module.mask.shape[1])
    for codeword in (0, 7, 23):
        member = module.assignment == codeword
        uses = module.mask[member].sum(dim=0)
        expected = (gradient[member] * module.mask[member]).sum(dim=0) / uses.clamp(min=1)
        assert torch.allclose(module.codebook.values.grad[codeword], expected, atol=1e-6)
    assert bool(module.mask.all()) != METHODS[method].sparse


def test_padded_channels_do_not_count_without_masks_either():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 3), torch.nn.Conv2d(6, 21, 3), torch.nn.BatchNorm2d(21)).eval()
    network = compress(module, (1, 8, 8), CompressSettings(method="vq", codewords=162))
    assert network.statistics["layers"]["1"]["sse"] < 1e-3 * network.statistics["layers"]["1"]["energy"]
    assert network.to_checkpoint().weights("1").shape == (21, 6, 3, 3)


# ---- PQF ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [False, True])
def test_pqf_is_the_same_network_with_a_smaller_error(residual):
    torch.manual_seed(0)
    module = zoo.DigitsNet(residual).eval()
    with torch.no_grad():  # channels of many sizes: an order matters
        for name, part in module.named_modules():
            if name.startswith("conv") and name != "conv1":
                part.weight *= torch.rand(len(part.weight), 1, 1, 1) ** 2 * 3
    plain, found = (compress(module, (1, 8, 8), CompressSettings(method=name, codewords=64)) for name in ("vq", "pqf"))
    assert found.statistics["total"]["sse"] < 0.9 * plain.statistics["total"]["sse"]
    for name in ("conv2", "conv3"):
        before, after = found.statistics["layers"][name]["log_determinant"]
        assert after < before
        assert found.statistics["layers"][name]["energy"] == pytest.approx(plain.statistics["layers"][name]["energy"])
    exact = compress(module, (1, 8, 8), CompressSettings(method="pqf", codewords=4608 if residual else 2304))
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        error = (exact(x) - module(x)).abs().max() / module(x).abs().max()
    assert float(error) < 0.05  # each vector has its own codeword: only rounding to 8 bits is left


def test_annealing_beats_common_k_means():
    """Correlated vectors, as weights are; the mean over seeds."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(1500, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    masks = torch.ones_like(vectors, dtype=torch.bool)
    plain, annealed = (
        np.mean([masked_kmeans(vectors, masks, 128, seed=seed, annealing=noisy).sse for seed in range(3)])
        for noisy in (0, 60)
    )
    assert annealed < 0.97 * plain
    one, same = (masked_kmeans(vectors, masks, 16, annealing=5, iterations=5) for _ in range(2))
    assert torch.equal(one.codebook, same.codebook)


# ---- VecQ -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 4, 7])
def test_vecq_counts_its_bits_and_stores_odd_integers(digits_module, bits):
    checkpoint = compress(digits_module, (1, 8, 8), small("vecq", weight_bits=bits)).to_checkpoint()
    weight = checkpoint.weights("conv3")
    assert (weight % 2 == 1).all()
    assert np.abs(weight.astype(int)).max() <= 2**bits - 1
    sizes = checkpoint.sizes()
    assert sizes["layers"]["conv3"]["dense"] == bits * weight.size
    assert sizes["formula_ratio"] == pytest.approx(32 / bits)
    assert sizes["layers"]["conv1"]["dense"] == 8 * checkpoint.weights("conv1").size
    assert (
        len(checkpoint._files()["tensors.safetensors"])
        < sum(part["dense"] for part in sizes["layers"].values()) / 8 + 4096
    )


def test_more_bits_leave_less_error(digits_module):
    errors = [
        compress(digits_module, (1, 8, 8), small("vecq", weight_bits=bits)).statistics["total"]["sse"]
        for bits in range(1, 8)
    ]
    assert errors == sorted(errors, reverse=True)


def test_vecq_and_int8_run_on_the_array(digits, digits_module):
    for method in ("vecq", "int8"):
        network = compress(digits_module, (1, 8, 8), small(method))
        checkpoint = network.to_checkpoint()
        lowered = lower(checkpoint, calibrate(network, digits[0][:64]), preset("ews", 16))
        assert np.array_equal(lowered.network.layers["conv3"].weight, checkpoint.weights("conv3"))


# ---- bits of a codeword ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_codewords_of_a_few_bits(tmp_path, digits, digits_module, bits):
    network = compress(digits_module, (1, 8, 8), small("mvq", codeword_bits=bits))
    finetune(network, digits[0][:256], digits[1][:256], FinetuneSettings(epochs=1))
    checkpoint = network.to_checkpoint()
    codebook = checkpoint.codebooks["conv3"]
    assert codebook.values.min() >= -(2 ** (bits - 1))
    assert codebook.values.max() <= 2 ** (bits - 1) - 1
    assert codebook.values.dtype == np.int8
    assert checkpoint.sizes()["layers"]["conv3"]["codebook"] == bits * 24 * 16
    checkpoint.save(tmp_path / "net")
    loaded = Checkpoint.load(tmp_path / "net")
    assert loaded.codebooks["conv3"].element_bits == bits
    assert loaded.sizes()["formula_ratio"] == checkpoint.sizes()["formula_ratio"]
    x = digits[2][:16]
    again = CompressedNetwork.from_checkpoint(loaded)
    assert torch.equal(again(x), network(x))
    again.requantise()
    assert again.to_checkpoint()._files() == checkpoint._files()


def test_fewer_bits_leave_more_error_and_a_better_ratio(digits_module):
    networks = [compress(digits_module, (1, 8, 8), small("mvq", codeword_bits=bits)) for bits in range(2, 9)]
    errors = [network.statistics["total"]["masked_sse"] for network in networks]
    ratios = [network.to_checkpoint().sizes()["formula_ratio"] for network in networks]
    assert errors == sorted(errors, reverse=True)
    assert ratios == sorted(ratios, reverse=True)


def test_stored_bits_that_cannot_be(digits_module):
    with pytest.raises(CheckpointError, match="values hold 4, which has more than 3 bits"):
        Codebook("a", np.array([[4, 0]], np.int8), np.float32(1), 3)
    with pytest.raises(CheckpointError, match="element_bits = 9"):
        Codebook("a", np.array([[4, 0]], np.int8), np.float32(1), 9)
    checkpoint = compress(digits_module, (1, 8, 8), small("vecq", weight_bits=2)).to_checkpoint()
    for weight, bits, named in (
        (2, 2, "holds 2, which is no odd"),
        (5, 2, "holds 5"),
        (-5, 2, "holds -5"),
        (1, 0, "bits = 0"),
    ):
        wrong = np.full(checkpoint.weights("conv3").shape, weight, np.int8)
        layer = dataclasses.replace(checkpoint.layers["conv3"], weight=wrong, bits=bits)
        with pytest.raises(CheckpointError, match=named):
            Checkpoint(checkpoint.graph, {**checkpoint.layers, "conv3": layer})


# ---- settings of layers ---------------------------------------------------------------------------------------------


def test_layers_may_have_settings_of_their_own(digits_module):
    own = {"conv3": {"n": 2, "m": 8, "vector_length": 8, "codewords": 20, "codeword_bits": 4}}
    network = compress(digits_module, (1, 8, 8), small("mvq", layers=own))
    checkpoint = network.to_checkpoint()
    first, second = checkpoint.layers["conv2"], checkpoint.layers["conv3"]
    assert (first.n, first.m, first.codebook.values.shape, first.codebook.element_bits) == (4, 16, (24, 16), 8)
    assert (second.n, second.m, second.codebook.values.shape, second.codebook.element_bits) == (2, 8, (20, 8), 4)
    assert checkpoint.settings["layers"] == own
    weight = digits_module.conv3.weight.detach()
    assert np.array_equal(second.masks(), group(kept(weight, 2, 8), 8).numpy())
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(CompressedNetwork.from_checkpoint(checkpoint)(x), network(x))
    bits = compress(digits_module, (1, 8, 8), small("vecq", layers={"conv2": {"weight_bits": 2}})).to_checkpoint()
    assert (bits.layers["conv2"].bits, bits.layers["conv3"].bits) == (2, 4)


def test_masks_may_differ_over_a_shared_codebook(digits_module):
    settings = small("mvq", codebook="shared", layers={"conv3": {"n": 8}})
    checkpoint = compress(digits_module, (1, 8, 8), settings).to_checkpoint()
    assert checkpoint.layers["conv3"].masks().sum() == 2 * checkpoint.layers["conv3"].index.size * 4
    assert list(checkpoint.codebooks) == ["shared"]


@pytest.mark.parametrize("method", CODEBOOKS)
def test_a_shared_codebook_with_every_method(digits_module, method):
    network = compress(digits_module, (1, 8, 8), small(method, codebook="shared"))
    assert list(network.codebooks) == ["shared"]
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(CompressedNetwork.from_checkpoint(network.to_checkpoint())(x), network(x))


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ({"conv9": {"n": 2}}, "'conv9' is not in the network; its layers are conv1, conv2, conv3, fc"),
        ({"fc": {"codewords": 2}}, "'fc' stays dense"),
    ],
)
def test_layers_that_can_have_no_settings(digits_module, layers, named):
    with pytest.raises(MvqError, match=named):
        compress(digits_module, (1, 8, 8), CompressSettings(layers=layers))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"method": "mqv"}, "method = 'mqv': must be one of mvq, vq.*nearest legal value is 'mvq'"),
        ({"codeword_bits": 9}, "codeword_bits = 9.*nearest legal value is 8"),
        ({"codeword_bits": 1}, "codeword_bits = 1.*nearest legal value is 2"),
        ({"weight_bits": 8}, "weight_bits = 8.*does not fit int8.*nearest legal value is 7"),
        ({"initial": "best"}, "initial = 'best': must be 'random' or 'k-means"),
        ({"restarts": 0}, "restarts = 0"),
        ({"method": "vq-sparse", "vector_length": 8}, "vector_length = 8: must be a multiple of m = 16"),
        ({"layers": {"a": {"n": 17}}}, "layers: 'a': n = 17.*nearest legal value is 16"),
        ({"layers": {"a": {"codeword": 17}}}, "'a' sets 'codeword'.*the nearest is 'codewords'"),
        ({"layers": {"a": 3}}, "layers: 'a' = 3"),
        ({"layers": {"a": {"codewords": 9}}, "codebook": "shared"}, "'a' sets 'codewords'.*shared"),
    ],
)
def test_settings_that_cannot_be(settings, named):
    with pytest.raises(MvqError, match=named):
        CompressSettings(**settings)


def test_int8_needs_no_layer_to_compress(digits_module):
    network = compress(digits_module, (1, 8, 8), CompressSettings(method="int8", dense=["conv2", "conv3"]))
    assert network.to_checkpoint().sizes()["formula_ratio"] is None
    assert network.statistics["total"] == {"sse": 0.0, "masked_sse": 0.0}


def test_how_it_is_compared_does_not_change_the_result(digits_module):
    files = [
        compress(digits_module, (1, 8, 8), small("mvq"), **options).to_checkpoint()._files()
        for options in ({}, {"device": "cpu"}, {"chunk": 7})
    ]
    assert files[0] == files[1] == files[2]


# ---- a real network -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_resnet20_by_every_codebook_method(resnet20):
    """At equal bits: masked k-means has the least masked error, permuted and annealed codebooks the least in all."""
    found = {
        method: compress(resnet20, (3, 32, 32), CompressSettings(method=method, iterations=20)) for method in CODEBOOKS
    }
    total = {method: network.statistics["total"] for method, network in found.items()}
    assert min(total, key=lambda method: total[method]["masked_sse"]) == "mvq"
    assert min(total, key=lambda method: total[method]["sse"]) == "pqf"
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for network in found.values():
        assert torch.equal(CompressedNetwork.from_checkpoint(network.to_checkpoint())(x), network(x))
