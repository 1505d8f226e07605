import numpy as np
import pytest
import torch

from algo import zoo
from algo.calibration import calibrate
from algo.compress import CompressSettings, compress
from algo.finetune import FinetuneSettings, finetune
from algo.network import CompressedNetwork
from hdl.config import MvqError


@pytest.fixture
def compressed(digits_module):
    return compress(digits_module, (1, 8, 8), CompressSettings(codewords=32))


# ---- fine-tuning --------------------------------------------------------------------------------------------------


def test_digits_come_back_after_a_few_epochs(digits, digits_module, compressed):
    before, floating = zoo.accuracy(compressed, *digits[2:]), zoo.accuracy(digits_module, *digits[2:])
    index = {name: layer.index for name, layer in compressed.to_checkpoint().layers.items() if hasattr(layer, "index")}
    history = finetune(compressed, *digits[:2], FinetuneSettings(epochs=3, rate=3e-3))
    after = zoo.accuracy(compressed, *digits[2:])
    assert floating > 0.97
    assert before < after
    assert after > floating - 0.025
    assert len(history) == 3
    assert history[-1] < history[0]
    checkpoint = compressed.to_checkpoint()
    for name, expected in index.items():
        assert np.array_equal(checkpoint.layers[name].index, expected)  # frozen (section 4.4)
    assert checkpoint.codebooks["conv3"].values.dtype == np.int8
    book = compressed.codebooks["conv3"]
    assert torch.allclose(book.values, book.levels() * book.scale)


def test_codewords_move_by_the_masked_mean_of_their_gradients(digits, compressed):
    """One step of plain gradient descent against eq. 6 written out with the gradient of the whole weight."""
    x, y = digits[0][:16], digits[1][:16]
    layer = compressed.layers["conv3"].weight
    captured = {}
    compressed.train()
    original = layer.forward

    def capture():
        captured["weight"] = original()
        captured["weight"].retain_grad()
        return captured["weight"]

    layer.forward = capture
    torch.nn.functional.cross_entropy(compressed(x), y).backward()
    gradient = captured["weight"].grad.reshape(4, 16, -1).transpose(1, 2).reshape(-1, 16)
    expected = torch.zeros_like(layer.codebook.values)
    for codeword in range(len(expected)):
        member = layer.assignment == codeword
        uses = layer.mask[member].sum(dim=0)
        expected[codeword] = (gradient[member] * layer.mask[member]).sum(dim=0) / uses.clamp(min=1)
    ratio = layer.codebook.values / layer.codebook.scale
    expected *= (ratio >= -128) & (ratio <= 127)
    assert torch.allclose(layer.codebook.values.grad, expected, atol=1e-6)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_optimisers_and_determinism(digits, digits_module, optimiser):
    settings = FinetuneSettings(epochs=1, rate=1e-3, optimiser=optimiser)
    files = []
    for _ in range(2):
        network = compress(digits_module, (1, 8, 8), CompressSettings(codewords=16))
        finetune(network, digits[0][:256], digits[1][:256], settings)
        files.append(network.to_checkpoint()._files())
    assert files[0] == files[1]


def test_a_loaded_network_can_be_fine_tuned(digits, compressed):
    finetune(compressed, *digits[:2], FinetuneSettings(epochs=1))
    loaded = CompressedNetwork.from_checkpoint(compressed.to_checkpoint())
    history = finetune(loaded, *digits[:2], FinetuneSettings(epochs=2, rate=5e-4))
    assert history[-1] < history[0]
    assert zoo.accuracy(loaded, *digits[2:]) > 0.95


def test_training_mode_and_evaluation_mode_agree_without_normalisation(digits, compressed):
    loaded = CompressedNetwork.from_checkpoint(compressed.to_checkpoint())
    evaluated = loaded(digits[2][:8])
    assert torch.allclose(loaded.train()(digits[2][:8]), evaluated, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"epochs": 0}, "epochs = 0"),
        ({"batch": 0}, "batch"),
        ({"rate": 0.0}, "rate"),
        ({"optimiser": "lion"}, "'lion'"),
    ],
)
def test_settings_that_cannot_be(settings, named):
    with pytest.raises(MvqError, match=named):
        FinetuneSettings(**settings)


def test_what_cannot_be_learned(digits, compressed):
    with pytest.raises(MvqError, match="labels"):
        finetune(compressed, digits[0], digits[1][:3])
    with pytest.raises(MvqError, match="rate below"):
        finetune(compressed, torch.full((4, 1, 8, 8), torch.nan), digits[1][:4])
    assert not compressed.training


# ---- calibration --------------------------------------------------------------------------------------------------


def test_calibration_is_the_largest_magnitude_of_every_node(digits, compressed):
    images = digits[0][:100]
    values = {}
    with torch.no_grad():
        compressed(images, lambda node, value: values.__setitem__(node.name, value))
    found = calibrate(compressed, images, batch=32).amax
    assert found.keys() == {node.name for node in compressed.graph.nodes} == values.keys()
    for name, value in values.items():
        assert found[name] == pytest.approx(float(value.abs().max()), rel=1e-5)


def test_a_percentile_is_below_the_largest(digits, compressed):
    images = digits[0][:128]
    whole, part = (calibrate(compressed, images, percentile).amax for percentile in (None, 99.0))
    assert all(part[name] <= whole[name] + 1e-6 for name in whole)
    assert part["conv2"] < whole["conv2"]


def test_what_cannot_be_calibrated(digits, compressed):
    with pytest.raises(MvqError, match="percentile = 40"):
        calibrate(compressed, digits[0], 40)
    with pytest.raises(MvqError, match="at least one"):
        calibrate(compressed, digits[0][:0])
    with pytest.raises(MvqError, match="'input' has NaN"):
        calibrate(compressed, torch.full((1, 1, 8, 8), torch.nan))
