import copy

import numpy as np
import pytest
import torch

from algo import zoo
from algo.calibration import calibrate
from algo.compress import CompressSettings, compress
from algo.finetune import FinetuneSettings, finetune
from algo.integer import TorchIntegerNetwork
from algo.network import CompressedNetwork
from algo.quantised_activations import QuantisedActivations, _Round, trained_calibration
from algo.training import TrainingSettings, train
from golden.checkpoint import Checkpoint
from golden.network import Calibration, quantise
from hdl.config import MvqError


@pytest.fixture(scope="module")
def tuned(digits, digits_module):
    """A compressed network that was fine-tuned with float activations; tests must not change it."""
    network = compress(digits_module, (1, 8, 8), CompressSettings(codewords=64))
    finetune(network, *digits[:2], FinetuneSettings(epochs=4, rate=3e-3))
    return network


def integer_accuracy(network, calibration, images, labels):
    integers = TorchIntegerNetwork(quantise(network.to_checkpoint(), calibration))
    return float((integers(images).argmax(dim=1) == labels).double().mean())


# ---- observers ----------------------------------------------------------------------------------------------------


class Source(torch.nn.Module):
    """Stands in for a network: one node whose value is the image."""

    def forward(self, x, observe):
        observe(type("Node", (), {"name": "x"}), x)


def observed(values, batch, **options):
    return calibrate(Source(), values, batch=batch, **options).amax["x"]


def squared_error(values, amax):
    scale = amax / 127
    return float(((torch.clamp(torch.round(values / scale), -128, 127) * scale - values) ** 2).sum())


@pytest.mark.parametrize("batch", [100, 7])  # all at once, and with a histogram that has to grow
def test_the_range_of_least_squares(batch):
    """Against a search over the values themselves, of which a few lie far out, so that it pays to cut them off."""
    values = torch.randn(100, 2000, generator=torch.Generator().manual_seed(0))
    values[:, 0] = torch.linspace(0, 40, 100).where(torch.arange(100) >= 98, values[:, 0])
    values = values[values.abs().amax(dim=1).argsort()]  # the largest come last
    found = observed(values, batch, observer="mse")
    best = min(squared_error(values, 40 * step / 400) for step in range(1, 401))
    assert found < 0.9 * 40
    assert squared_error(values, found) < 1.02 * best
    assert squared_error(values, found) < 0.9 * squared_error(values, 40)


def test_the_range_of_a_uniform_value_is_all_of_it():
    values = torch.linspace(-3, 3, 4096).view(64, 64)
    assert observed(values, 16, observer="mse") == pytest.approx(3, rel=0.01)
    assert observed(values, 16, observer="minmax") == 3
    assert observed(values, 64, observer="percentile") == pytest.approx(3, rel=1e-3)


def test_zeros_alone():
    for observer in ("minmax", "percentile", "mse"):
        assert observed(torch.zeros(4, 4), 2, observer=observer) == 0


def test_percentile_is_of_the_sorted_magnitudes():
    values = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).float().view(10, 100) - 999
    assert observed(values, 10, percentile=90.0) == 899  # the 900th of 0 to 999
    assert observed(values, 10, observer="percentile", percentile=90.0) == 899


def test_an_image_that_does_not_belong(digits, tuned):
    """One image in 256 that is 60 times too bright ruins the largest magnitude, not the other observers."""
    images = torch.cat((digits[0][:255], 60 * digits[0][255:256]))
    accuracy = {
        observer: integer_accuracy(tuned, calibrate(tuned, images, observer=observer), *digits[2:])
        for observer in ("minmax", "percentile", "mse")
    }
    clean = integer_accuracy(tuned, calibrate(tuned, images[:255]), *digits[2:])
    accuracy["percentile"] = integer_accuracy(tuned, calibrate(tuned, images, 99.0), *digits[2:])
    assert accuracy["minmax"] < clean - 0.1
    assert accuracy["percentile"] > clean - 0.02
    assert accuracy["mse"] > accuracy["minmax"]


def test_what_cannot_be_observed(digits, tuned):
    with pytest.raises(MvqError, match="observer = 'best': must be one of minmax, percentile, mse"):
        calibrate(tuned, digits[0], observer="best")
    with pytest.raises(MvqError, match=r"percentile = 99\.0: only the observer 'percentile'"):
        calibrate(tuned, digits[0], 99.0, observer="mse")


# ---- quantisation-aware training ----------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [False, True])
def test_training_rounds_where_the_integers_do(digits, residual):
    """Every node gives the integer network's values from the integer network's inputs, but for the words' rounding."""
    torch.manual_seed(0)
    module = zoo.train(zoo.DigitsNet(residual), *digits[:2], epochs=2)
    network = compress(module, (1, 8, 8), CompressSettings(codewords=64))
    calibration, images = calibrate(network, digits[0][:128]), digits[2][:64]
    rounded, steps = QuantisedActivations(network, calibration).eval(), {}
    integers = quantise(network.to_checkpoint(), calibration)
    results = integers.run(integers.quantise_input(images.numpy()))

    def compare(node, value):
        value = rounded._round(node, value)
        if value is None:
            return None
        scale = integers.scales[node.name]
        steps[node.name] = value.numpy() / scale - results[node.name]
        return torch.from_numpy(results[node.name] * scale).float()

    with torch.no_grad():
        network(images, compare)
    assert steps.keys() == set(integers.scales) - {"pool", "flatten"}
    for name, difference in steps.items():
        assert np.abs(difference).max() < 1.01, name
        assert (np.abs(difference) > 0.5).mean() < 0.05, name
    assert rounded.calibration().amax == pytest.approx({name: calibration.amax[name] for name in steps}, rel=1e-6)


def test_gradients_of_the_rounding():
    """LSQ: inside the range the value's gradient passes and the step's is round(x/s) - x/s; outside it is the bound."""
    x = torch.tensor([-300.0, -1.3, 0.2, 0.7, 90.0, 400.0], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y = _Round.apply(x, scale, -128, 127)
    assert y.tolist() == [-64.0, -1.5, 0.0, 0.5, 63.5, 63.5]
    gradient = torch.arange(1.0, 7.0, dtype=torch.float64)
    y.backward(gradient)
    assert x.grad.tolist() == [0, 2, 3, 4, 0, 0]
    steps = torch.tensor([-128, -3 + 2.6, 0 - 0.4, 1 - 1.4, 127, 127], dtype=torch.float64)
    assert float(scale.grad) == pytest.approx(float((gradient * steps).sum()) / np.sqrt(6 * 127))


def test_integers_lose_nothing_after_training_with_int8_activations(digits, tuned, tmp_path):
    """At most 0.3 points (one of 360 digits is 0.28), from the checkpoint on disk too."""
    network = copy.deepcopy(tuned)
    floating = zoo.accuracy(network, *digits[2:])
    settings = FinetuneSettings(epochs=3, rate=3e-4, activations="int8")
    finetune(network, *digits[:2], settings, validation=digits[2:])
    calibration = trained_calibration(network)
    assert integer_accuracy(network, calibration, *digits[2:]) >= floating - 0.003
    network.to_checkpoint().save(tmp_path / "checkpoint")
    stored = trained_calibration(Checkpoint.load(tmp_path / "checkpoint"))
    assert stored == calibration


def test_trained_steps_beat_coarse_ones(digits, tuned):
    """Steps 40 times too large, then trained: what training is for."""
    network = copy.deepcopy(tuned)
    coarse = Calibration({name: 40 * value for name, value in calibrate(network, digits[0][:256]).amax.items()})
    before = integer_accuracy(network, coarse, *digits[2:])
    rounded = QuantisedActivations(network, coarse)
    groups = [{"params": [scale], "lr": 0.05 * float(scale.detach())} for scale in rounded.scales]
    train(rounded, *digits[:2], TrainingSettings(epochs=4), groups=groups)
    after = rounded.calibration()
    assert sum(after.amax[name] < coarse.amax[name] for name in after.amax) > len(after.amax) / 2
    assert integer_accuracy(network, after, *digits[2:]) > before


def test_a_stopped_training_with_int8_activations_goes_on(digits, digits_module, tmp_path):
    class Stopped(Exception):
        pass

    def stop(stage, done, total):
        if done == 6:
            raise Stopped

    settings, x, y = FinetuneSettings(epochs=3, activations="int8", keep="best"), digits[0][:256], digits[1][:256]
    whole, parts, again = (compress(digits_module, (1, 8, 8), CompressSettings(codewords=16)) for _ in range(3))
    finetune(whole, x, y, settings)
    with pytest.raises(Stopped):
        finetune(parts, x, y, settings, folder=tmp_path, progress=stop)
    finetune(again, x, y, settings, folder=tmp_path)
    assert whole.to_checkpoint()._files() == again.to_checkpoint()._files()
    assert trained_calibration(whole) == trained_calibration(again)


def test_a_network_without_trained_activations(tuned):
    with pytest.raises(MvqError, match="no trained activations"):
        trained_calibration(tuned)
    with pytest.raises(MvqError, match="no trained activations"):
        trained_calibration(CompressedNetwork.from_checkpoint(tuned.to_checkpoint()))
    with pytest.raises(MvqError, match="activations = 'int4'"):
        FinetuneSettings(activations="int4")
    with pytest.raises(MvqError, match="observer = 'eye'"):
        FinetuneSettings(observer="eye")
