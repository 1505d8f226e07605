import numpy as np
import pytest
import torch
from torch import nn

from algo import zoo
from algo.compress import CompressSettings, choose_layers, compress, report
from algo.frontend import UnsupportedLayerError, trace
from algo.grouping import group, ungroup
from algo.network import ClusteredWeight, CompressedNetwork
from algo.pruning import magnitude_masks
from golden.checkpoint import Checkpoint, CheckpointError, DenseLayer, MvqLayer
from hdl.config import MvqError
from mvq.compress import make_plan

SMALL = CompressSettings(codewords=24)


@pytest.fixture(scope="module")
def compressed(digits_module):
    return compress(digits_module, (1, 8, 8), SMALL)


def kinds(checkpoint):
    return {name: type(layer) for name, layer in checkpoint.layers.items()}


# ---- which layers -------------------------------------------------------------------------------------------------


def test_first_convolution_and_classifier_stay_dense(compressed):
    dense, mvq = DenseLayer, MvqLayer
    assert kinds(compressed.to_checkpoint()) == {"conv1": dense, "conv2": mvq, "conv3": mvq, "fc": dense}


def test_depthwise_convolutions_stay_dense_and_other_linear_layers_do_not():
    torch.manual_seed(0)
    module = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 32, 1), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 5)),
    )
    graph, _ = trace(module, (3, 8, 8))
    assert choose_layers(graph, SMALL) == ["2", "5"]
    assert choose_layers(graph, CompressSettings(dense=["2"], compress=["7", "1"])) == ["1", "5", "7"]
    network = compress(module, (3, 8, 8), CompressSettings(codewords=8, compress="1"))
    x = torch.randn(2, 3, 8, 8)
    again = CompressedNetwork.from_checkpoint(network.to_checkpoint())
    assert torch.equal(network(x), again(x))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"dense": ["conv9"]}, "'conv9' is not in the network; its layers are conv1"),
        ({"dense": ["conv2", "conv3"]}, "no layer is left to compress"),
    ],
)
def test_layers_that_cannot_be_chosen(digits_module, settings, named):
    with pytest.raises(MvqError, match=named):
        compress(digits_module, (1, 8, 8), CompressSettings(**settings))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"n": 17}, "n = 17.*nearest legal value is 16"),
        ({"vector_length": 24}, "vector_length = 24: must be a multiple of m = 16; the nearest legal value is 32"),
        ({"codewords": 0}, "codewords = 0"),
        ({"codebook": "both"}, "codebook = 'both'"),
        ({"tolerance": 1.0}, "tolerance"),
        ({"normalise": 1}, "normalise = 1: must be true or false"),
        ({"normalise": True, "method": "int8"}, "normalise = True: the method 'int8' has no codebook"),
        ({"dense": ["a"], "compress": ["a"]}, "'a' is named in dense and in compress"),
    ],
)
def test_settings_that_cannot_be(settings, named):
    with pytest.raises(MvqError, match=named):
        CompressSettings(**settings)


def test_unsupported_layers_and_bad_weights_are_named():
    with pytest.raises(UnsupportedLayerError, match="Sigmoid at '1'"):
        compress(nn.Sequential(nn.Conv2d(1, 4, 1), nn.Sigmoid()), (1, 4, 4))
    module = zoo.DigitsNet()
    nn.init.constant_(module.conv3.weight, torch.nan)
    with pytest.raises(MvqError, match="'conv3'"):
        compress(module, (1, 8, 8))


# ---- weights ------------------------------------------------------------------------------------------------------


def test_weights_are_masked_codewords_and_errors_are_what_is_reported(digits_module, compressed):
    checkpoint = compressed.to_checkpoint()
    for name in ("conv2", "conv3"):
        weight = getattr(digits_module, name).weight.detach()
        masks = magnitude_masks(group(weight, 16), 4, 16)
        rebuilt = torch.from_numpy(checkpoint.weights(name)) * checkpoint.layers[name].codebook.scale
        assert np.array_equal(checkpoint.layers[name].masks(), masks.numpy())
        assert not rebuilt[~ungroup(masks, weight.shape)].any()
        error = (weight - rebuilt).double() ** 2
        statistics = compressed.statistics["layers"][name]
        assert statistics["sse"] == pytest.approx(float(error.sum()), rel=1e-5)
        assert statistics["masked_sse"] == pytest.approx(float(error[ungroup(masks, weight.shape)].sum()), rel=1e-5)
        assert statistics["masked_sse"] < 0.2 * statistics["energy"]
        assert checkpoint.layers[name].codebook.codewords == statistics["codewords"] == 24


def test_as_many_codewords_as_a_layer_has_vectors_at_most(digits_module):
    network = compress(digits_module, (1, 8, 8), CompressSettings(codewords=512, iterations=2))
    assert {name: len(book.values) for name, book in network.codebooks.items()} == {"conv2": 288, "conv3": 512}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"codewords": 1153}, "codewords = 1153: the largest layer has only 1152 subvectors; .* value is 1152"),
        ({"codewords": 1441, "codebook": "shared"}, "1441: all layers together have only 1440 subvectors; .* is 1440"),
        (
            {"layers": {"conv2": {"codewords": 289}}},
            "codewords = 289: layer 'conv2' has only 288 subvectors; .* is 288",
        ),
    ],
)
def test_more_codewords_than_subvectors(digits_module, settings, named):
    with pytest.raises(MvqError, match=named):
        compress(digits_module, (1, 8, 8), CompressSettings(**settings))
    with pytest.raises(MvqError, match=named):
        make_plan(digits_module, (1, 8, 8), CompressSettings(**settings))


def test_one_shared_codebook(digits_module):
    network = compress(digits_module, (1, 8, 8), CompressSettings(codewords=40, codebook="shared"))
    checkpoint = network.to_checkpoint()
    assert list(checkpoint.codebooks) == ["shared"]
    assert checkpoint.codebooks["shared"].codewords == 40
    x = torch.randn(2, 1, 8, 8)
    again = CompressedNetwork.from_checkpoint(checkpoint)
    assert torch.equal(again(x), network(x))
    assert len({id(layer.weight.codebook) for layer in again.layers.values() if hasattr(layer.weight, "codebook")}) == 1
    assert sum(row["bytes"] for row in report(checkpoint)["rows"]) < checkpoint.sizes()["file_bytes"]


@pytest.mark.parametrize("normalised", [True, False])
def test_normalised_channels_are_the_same_network(normalised):
    """Every vector its own codeword: what is rebuilt computes what the float network does, channel by channel."""
    torch.manual_seed(0)
    last = [nn.BatchNorm2d(16)] if normalised else []
    module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 16, 3, bias=True), *last).eval()
    with torch.no_grad():
        module[1].weight *= torch.logspace(-3, 1, 16).view(-1, 1, 1, 1)
        module[1].weight[5] = 0
        if normalised:
            nn.init.uniform_(module[2].running_var, 1e-6, 1)
            nn.init.uniform_(module[2].running_mean, -1, 1)
    settings = CompressSettings(vector_length=8, n=8, m=8, codewords=144, codebook="shared", normalise=True)
    network = compress(module, (1, 8, 8), settings)
    weight = network.layers["1"].weight()
    size = (weight**2).flatten(1).mean(dim=1).sqrt()
    assert torch.allclose(size, (torch.arange(16) != 5).float(), atol=0.01)
    x = torch.randn(4, 1, 8, 8)
    expected = module(x)
    error = (network(x) - expected).abs().amax(dim=(0, 2, 3))
    assert (error < 0.03 * expected.abs().amax(dim=(0, 2, 3)) + 1e-6).all()
    again = CompressedNetwork.from_checkpoint(network.to_checkpoint())
    assert torch.equal(again(x), network(x))
    assert network.statistics["layers"]["1"]["sse"] < 1e-3 * network.statistics["layers"]["1"]["energy"]


def test_normalised_channels_have_the_masks_of_the_weights_as_they_were(digits_module):
    plain, normalised = (
        compress(digits_module, (1, 8, 8), CompressSettings(codewords=24, codebook="shared", normalise=value))
        for value in (False, True)
    )
    for name in ("conv2", "conv3"):
        assert torch.equal(plain.layers[name].weight.mask, normalised.layers[name].weight.mask)
    x = torch.randn(2, 1, 8, 8)
    assert not torch.equal(plain(x), normalised(x))


def test_output_channels_that_d_does_not_divide_are_padded():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Conv2d(6, 21, 3), nn.BatchNorm2d(21)).eval()
    network = compress(module, (1, 8, 8), CompressSettings(vector_length=8, n=2, m=4, codewords=162))
    statistics = network.statistics["layers"]["1"]
    assert statistics["vectors"] == statistics["codewords"] == 3 * 6 * 9
    assert network.to_checkpoint().weights("1").shape == (21, 6, 3, 3)
    assert statistics["masked_sse"] < 1e-3 * statistics["energy"]  # every vector its own codeword


def test_plain_vector_quantisation_has_no_masks(digits_module):
    checkpoint = compress(
        digits_module, (1, 8, 8), CompressSettings(vector_length=8, n=1, m=1, codewords=64)
    ).to_checkpoint()
    assert checkpoint.layers["conv3"].mask_codes is None
    statistics = checkpoint.statistics["layers"]["conv3"]
    assert statistics["sse"] == pytest.approx(statistics["masked_sse"])


def test_compression_is_deterministic_and_leaves_the_module(digits_module, compressed):
    before = {key: value.clone() for key, value in digits_module.state_dict().items()}
    again = compress(digits_module, (1, 8, 8), SMALL)
    assert again.to_checkpoint()._files() == compressed.to_checkpoint()._files()
    assert all(torch.equal(value, before[key]) for key, value in digits_module.state_dict().items())


def test_progress_is_told(digits_module):
    calls = []
    compress(digits_module, (1, 8, 8), CompressSettings(codewords=8), lambda *step: calls.append(step))
    assert {stage for stage, _, _ in calls} == {"cluster conv2", "cluster conv3"}
    assert all(0 < done <= total for _, done, total in calls)


# ---- checkpoint ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [False, True])
def test_checkpoint_gives_the_same_network_to_the_bit(tmp_path, residual):
    torch.manual_seed(0)
    module = zoo.DigitsNet(residual)
    for bn in (part for part in module.modules() if isinstance(part, nn.BatchNorm2d)):
        nn.init.uniform_(bn.running_mean, -1, 1)
        nn.init.uniform_(bn.running_var, 0.1, 3)
        nn.init.uniform_(bn.weight, -1, 2)
        nn.init.uniform_(bn.bias, -1, 1)
    network = compress(module, (1, 8, 8), SMALL)
    images = torch.randn(32, 1, 8, 8)
    network.train()(images)  # moves the running statistics
    network.eval()
    network.to_checkpoint().save(tmp_path / "net")
    loaded = CompressedNetwork.from_checkpoint(Checkpoint.load(tmp_path / "net"))
    assert torch.equal(loaded(images), network(images))
    loaded.to_checkpoint().save(tmp_path / "again")
    for name in ("manifest.json", "tensors.safetensors"):
        assert (tmp_path / "net" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_folded_normalisation_is_the_networks(digits, digits_module, compressed):
    """Evaluation mode agrees with torch's own batch normalisation over the rebuilt weights."""
    reference = zoo.DigitsNet().eval()
    reference.load_state_dict(digits_module.state_dict())
    with torch.no_grad():
        for name, layer in compressed.layers.items():
            getattr(reference, name).weight.copy_(layer.weight())
        found, expected = compressed(digits[2][:50]), reference(digits[2][:50])
    assert torch.allclose(found, expected, atol=1e-4)


def test_report(compressed):
    checkpoint = compressed.to_checkpoint()
    found = report(checkpoint)
    assert [row["name"] for row in found["rows"]] == ["conv1", "conv2", "conv3", "fc"]
    conv3 = found["rows"][2]
    index = 64 // 16 * 32 * 9
    assert conv3["bytes"] == (index * (5 + 11) + 24 * 16 * 8 + 2 * 64 * 32) / 8
    weights = 16 * 32 * 9 + 32 * 64 * 9
    bits = (index + 32 // 16 * 16 * 9) * (5 + 11) + 2 * 24 * 16 * 8
    assert found["total"]["formula_ratio"] == pytest.approx(weights * 32 / bits)
    assert found["total"]["masked_sse"] == pytest.approx(sum(row["masked_sse"] or 0 for row in found["rows"]))


def test_a_network_that_diverged_is_not_stored(digits_module):
    network = compress(digits_module, (1, 8, 8), SMALL)
    with torch.no_grad():
        network.layers["conv2"].gamma[3] = torch.nan
    with pytest.raises(CheckpointError, match=r"conv2.*channel_scale"):
        network.to_checkpoint()


# ---- real networks ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_resnet20(resnet20):
    network = compress(resnet20, (3, 32, 32), CompressSettings(codewords=64, iterations=10))
    clustered = [name for name, layer in network.layers.items() if isinstance(layer.weight, ClusteredWeight)]
    assert len(clustered) == 18
    assert "conv1" not in clustered
    assert "linear" not in clustered
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(CompressedNetwork.from_checkpoint(network.to_checkpoint())(x), network(x))


@pytest.mark.slow
def test_efficientnet_lite0(efficientnet_lite0):
    settings = CompressSettings(n=1, m=2, codewords=256, iterations=3)
    network = compress(efficientnet_lite0, (3, 224, 224), settings)
    clustered = [name for name, layer in network.layers.items() if isinstance(layer.weight, ClusteredWeight)]
    assert len(clustered) == 32
    assert not any("depthwise" in name for name in clustered)
    assert network.to_checkpoint().sizes()["formula_ratio"] > 12
