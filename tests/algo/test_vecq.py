import json
import math
import runpy
import sys
from pathlib import Path

import pytest
import torch

from algo.vecq import STEPS, VecqWeight, drive, orientation_loss, steer
from golden.checkpoint import DenseLayer
from hdl.config import MvqError

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "vecq.py"
#: k -> (J_o, nMSE) of normally distributed weights, from the authors' steps integrated over the distribution.
GAUSSIAN = {
    1: (2.02e-1, 3.634e-1),
    2: (6.13e-2, 1.1885e-1),
    3: (1.89e-2, 3.744e-2),
    4: (5.79e-3, 1.154e-2),
    5: (1.75e-3, 3.495e-3),
    6: (5.20e-4, 1.040e-3),
    7: (1.52e-4, 3.04e-4),
    8: (4.38e-5, 8.77e-5),
}


def weights(count=200_000, seed=0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_benchmarks_table_is_the_specifications_to_three_digits(tmp_path, monkeypatch, capsys):
    out = tmp_path / "vecq.json"
    monkeypatch.setattr(sys, "argv", ["vecq.py", "--json", str(out)])
    runpy.run_path(str(BENCHMARK), run_name="__main__")
    rows, printed = json.loads(out.read_text())["rows"], capsys.readouterr().out
    assert [row["bits"] for row in rows] == list(GAUSSIAN)
    for row in rows:
        for found, expected in zip((row["orientation_loss"], row["nmse"]), GAUSSIAN[row["bits"]], strict=True):
            assert abs(found - expected) <= 0.005 * 10 ** math.floor(math.log10(expected)), row
        assert f"{row['nmse']:.4e}" in printed


@pytest.mark.parametrize("bits", range(1, 9))
def test_driving_leaves_exactly_what_steering_leaves_of_the_direction(bits):
    """nMSE = 1 - cos^2 for any weights, here with a mean and two peaks."""
    w = torch.cat([weights() * 0.3 - 1, weights(seed=1) * 0.1 + 2])
    v = steer(w, bits)
    error = float(((w - drive(w, v) * v) ** 2).sum() / (w * w).sum())
    assert error == pytest.approx(1 - (1 - orientation_loss(w, v)) ** 2, rel=1e-9)


@pytest.mark.parametrize("bits", range(1, 9))
def test_alpha_is_the_step_of_normal_weights(bits):
    w = weights() * 3
    gain = float(drive(w, steer(w, bits)) / (STEPS[bits - 1] * w.std()))
    assert gain == pytest.approx(1 if bits > 1 else 1.594, abs=0.003)


@pytest.mark.parametrize("bits", [1, 3, 7])
def test_values_are_those_of_so_many_bits_and_scale_with_the_weights(bits):
    w = weights(100_000)
    v = steer(w, bits)
    assert torch.equal(steer(w * 2.0**-20, bits), v)
    assert (v.min(), v.max()) == (0.5 - 2 ** (bits - 1), 2 ** (bits - 1) - 0.5)
    assert len(v.unique()) == 2**bits
    assert float(drive(w * 8, v)) == pytest.approx(8 * float(drive(w, v)))


def test_steps_minimise_the_orientation_loss_of_normal_weights():
    w = weights(400_000)
    for bits in range(2, 6):
        best = orientation_loss(w, steer(w, bits))
        assert all(orientation_loss(w, steer(w, bits, gain)) > best for gain in (0.9, 1.1))


def test_a_half_rounds_to_even_and_is_clipped_first():
    w = torch.tensor([-10.0, -1.0, 0.0, 1.0, 10.0])
    step = STEPS[1] * float(w.std(correction=0))
    expected = [min(max(round(min(max(x / step - 0.5, -2), 1)), -2), 1) + 0.5 for x in w.tolist()]
    assert steer(w, 2).tolist() == expected


@pytest.mark.parametrize("bits", range(1, 8))
@pytest.mark.parametrize("kind", ["normal", "skewed", "zeros", "equal", "one"])
def test_a_stored_weight_is_quantised_to_itself(bits, kind):
    w = weights(600).float().reshape(6, 4, 5, 5)
    w = {
        "normal": w,
        "skewed": w**3 + 1,
        "zeros": w * 0,
        "equal": w * 0 + 0.7,
        "one": torch.zeros_like(w).index_fill_(0, torch.tensor([2]), 5.0),
    }[kind]
    module = VecqWeight(w, bits)
    layer = module.store({}, channel_scale=torch.ones(6).numpy(), channel_bias=torch.ones(6).numpy())
    assert isinstance(layer, DenseLayer)
    assert (layer.weight % 2 == 1).all()
    again = VecqWeight.stored(layer)
    assert torch.equal(again.levels(), module.levels())
    assert float(again.scale) == pytest.approx(1, rel=1e-5)
    assert torch.allclose(module(), module.levels() * module.scale)


def test_the_gradient_passes_straight_through_and_weights_are_quantised_anew():
    module = VecqWeight(weights(64).float().reshape(8, 8), 2)
    module().sum().backward()
    assert torch.equal(module.weight.grad, torch.ones(8, 8))
    before = module.levels()
    with torch.no_grad():
        module.weight.neg_()
    assert not torch.equal(module.levels(), before)
    assert float(module.scale) > 0


@pytest.mark.parametrize(
    ("bits", "named"),
    [(8, "does not fit int8.*nearest legal value is 7"), (0, "nearest legal value is 1"), (2.5, "weight_bits = 2.5")],
)
def test_bits_that_cannot_be(bits, named):
    with pytest.raises(MvqError, match=named):
        VecqWeight(torch.ones(2, 2), bits)
