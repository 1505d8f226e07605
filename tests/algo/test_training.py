import numpy as np
import pytest
import torch

from algo import zoo
from algo.augmentation import crop_and_flip
from algo.calibration import calibrate
from algo.compress import CompressSettings, compress
from algo.finetune import FinetuneSettings, finetune
from algo.network import CompressedNetwork
from algo.training import TrainingSettings, train
from hdl.config import MvqError


@pytest.fixture
def compressed(digits_module):
    return compress(digits_module, (1, 8, 8), CompressSettings(codewords=32))


# ---- the loop ------------------------------------------------------------------------------------------------------


def test_one_step_is_plain_gradient_descent(digits):
    """Nesterov momentum and weight decay of a linear network with a squared loss, written out."""
    x, y = digits[0][:32].flatten(1).double(), torch.randn(32, 1, dtype=torch.float64)
    module = torch.nn.Linear(64, 1, bias=False, dtype=torch.float64)
    weight, velocity = module.weight.detach().clone(), 0.0
    settings = TrainingSettings(
        epochs=3, batch=32, rate=1e-3, optimiser="sgd", momentum=0.8, nesterov=True, weight_decay=0.1
    )
    log = train(module, x, y, settings, loss=torch.nn.functional.mse_loss)
    for epoch in range(3):
        rate = 1e-3 * (1 + np.cos(np.pi * epoch / 3)) / 2
        error = x @ weight.T - y
        assert log[epoch]["rate"] == pytest.approx(rate)
        assert log[epoch]["loss"] == pytest.approx(float((error**2).mean()))
        gradient = 2 * error.T @ x / 32 + 0.1 * weight
        velocity = 0.8 * velocity + gradient
        weight = weight - rate * (gradient + 0.8 * velocity)
    assert torch.allclose(module.weight, weight)
    assert not module.training


def test_bfloat16_trains_as_far_as_float32(digits):
    """Both learn the digits; the products differ, the weights stay in float32."""
    x, y, test_x, test_y = digits
    trained = {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        trained[precision] = zoo.DigitsNet()
        train(trained[precision], x, y, TrainingSettings(epochs=6, rate=4e-3, precision=precision))
        assert zoo.accuracy(trained[precision], test_x, test_y) > 0.95
    wide, narrow = (list(module.parameters()) for module in trained.values())
    assert {parameter.dtype for parameter in narrow} == {torch.float32}
    assert not all(torch.equal(*pair) for pair in zip(wide, narrow, strict=True))


def test_a_teacher_alone_is_imitated(digits, digits_module):
    """With distillation = 1 the labels do not count: with wrong ones the student still learns the teacher's."""
    x, _, test_x, test_y = digits
    torch.manual_seed(0)
    student, wrong = zoo.DigitsNet(), torch.zeros(len(x), dtype=torch.int64)
    settings = TrainingSettings(epochs=6, rate=4e-3, distillation=1.0)
    train(student, x, wrong, settings, teacher=digits_module)
    assert zoo.accuracy(student, test_x, test_y) > 0.95
    assert not digits_module.training
    with pytest.raises(MvqError, match=r"teacher gives \(64,\) values .* network \(10,\)"):
        train(student, x, wrong, settings, teacher=torch.nn.Flatten())


def test_a_distilled_loss_is_the_weighted_sum(digits, digits_module):
    torch.manual_seed(0)
    x, y, student = digits[0][:64], digits[1][:64], zoo.DigitsNet()
    settings = TrainingSettings(epochs=1, distillation=0.3, temperature=2.0)
    output, guide = student.train()(x).detach(), digits_module(x).detach()
    mine, theirs = (torch.softmax(values.double() / 2, 1) for values in (output, guide))
    divergence = (theirs * (theirs / mine).log()).sum(dim=1).mean()
    expected = 0.7 * torch.nn.functional.cross_entropy(output, y) + 0.3 * 4 * divergence
    found = train(student, x, y, settings, teacher=digits_module)[0]["loss"]
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_crops_and_mirror_images():
    """Every image is a window of its padded self, mirrored or not; all windows and both sides turn up."""
    images = torch.randn(600, 2, 5, 6)
    changed = crop_and_flip(images, torch.Generator().manual_seed(0), padding=1)
    padded, seen = torch.nn.functional.pad(images, (1, 1, 1, 1)), set()
    for image, source in zip(changed, padded, strict=True):
        found = [
            (row, column, mirrored)
            for row in range(3)
            for column in range(3)
            for mirrored in (False, True)
            if torch.equal(image.flip(2) if mirrored else image, source[:, row : row + 5, column : column + 6])
        ]
        assert len(found) == 1
        seen.update(found)
    assert len(seen) == 18
    assert torch.equal(changed, crop_and_flip(images, torch.Generator().manual_seed(0), padding=1))


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
        ({"momentum": 1.0}, "momentum = 1.0"),
        ({"nesterov": True}, "nesterov"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0"),
        ({"distillation": 1.5}, "distillation = 1.5: .* nearest legal value is 1"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"precision": "int4"}, "'int4': must be one of float32, bfloat16"),
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
