import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from golden import integer
from golden.integer import Requantisation
from hdl.config import MvqError

numbers = st.integers


def int8(rng, *shape):
    return rng.integers(-128, 128, shape).astype(np.int8)


def naive_conv(x, weight, stride, padding, groups):
    top, bottom, left, right = padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right))).astype(int)
    batch, kernels, kh, kw = x.shape[0], weight.shape[0], *weight.shape[2:]
    height, width = (x.shape[2] - kh) // stride[0] + 1, (x.shape[3] - kw) // stride[1] + 1
    result = np.zeros((batch, kernels, height, width), int)
    for b, k, i, j in itertools.product(*map(range, result.shape)):
        first = k // (kernels // groups) * weight.shape[1]
        for c, y, z in itertools.product(*map(range, weight.shape[1:])):
            pixel = int(x[b, first + c, i * stride[0] + y, j * stride[1] + z])
            result[b, k, i, j] += int(weight[k, c, y, z]) * pixel
    return result


@settings(max_examples=60, deadline=None)
@given(
    groups=numbers(1, 3),
    channels=st.tuples(numbers(1, 3), numbers(1, 3)),
    kernel=st.tuples(numbers(1, 3), numbers(1, 3)),
    extra=st.tuples(numbers(0, 3), numbers(0, 3)),
    stride=st.tuples(numbers(1, 3), numbers(1, 3)),
    padding=st.tuples(*[numbers(0, 2)] * 4),
    seed=numbers(0, 2**32),
)
def test_convolution_equals_a_naive_loop(groups, channels, kernel, extra, stride, padding, seed):
    rng = np.random.default_rng(seed)
    x = int8(rng, 2, groups * channels[0], kernel[0] + extra[0], kernel[1] + extra[1])
    weight = int8(rng, groups * channels[1], channels[0], *kernel)
    got = integer.conv2d(x, weight, stride, padding, groups)
    assert got.dtype == np.int64
    assert (got == naive_conv(x, weight, stride, padding, groups)).all()


def test_extreme_sums_are_exact():
    x, weight = np.full((1, 40000), -128, np.int8), np.full((2, 40000), -128, np.int8)
    weight[1, 0] = -127
    assert integer.linear(x, weight).tolist() == [[40000 * 16384, 40000 * 16384 - 128]]


def requantise_scalar(psum, word, low, high):
    """One sum with one 32-bit word, in Python's integers."""
    mantissa, shift, sign, bias = word & 255, word >> 8 & 63, word >> 14 & 1, word >> 15
    bias -= (bias >> 16) << 17
    product = (-psum if sign else psum) * (256 + mantissa)
    t = max(-(2**17), min(2**17 - 1, product >> shift))
    return max(low, min(high, (t + bias + 32) >> 6))


multipliers = (
    st.floats(-7.97, 7.97) | st.floats(-0.01, 0.01) | st.sampled_from([0.0, 1.0, -1.0, 0.5, 2.0**-61, 2.0**-70])
)


@settings(deadline=None)
@given(
    channels=st.lists(st.tuples(multipliers, st.floats(-1500, 1500)), min_size=1, max_size=6),
    activation=st.sampled_from(["none", "relu", "relu6"]),
    psums=st.lists(numbers(-(2**31), 2**31 - 1) | numbers(-500, 500), min_size=1, max_size=8),
)
def test_requantisation_equals_the_scalar_reference(channels, activation, psums):
    scale, bias = np.array(channels).T
    unit = Requantisation.from_real(scale, bias, activation, 1.0)
    words = unit.words()
    assert words.dtype == np.uint32
    psum = np.tile(np.array(psums)[:, None, None], (1, len(channels), 2))
    got = unit.apply(psum)
    assert got.dtype == np.int8
    expected = [[requantise_scalar(p, int(word), unit.low, unit.high) for word in words] for p in psums]
    assert got[:, :, 1].tolist() == expected
    again = Requantisation.from_words(words, unit.low, unit.high)
    assert (again.apply(psum) == got).all()
    assert (again.bias == unit.bias).all()


@given(multipliers)
@example(0.5 - 2.0**-13)  # rounds up to the next power of two
def test_the_multiplier_is_the_nearest_there_is(ratio):
    unit = Requantisation.from_real(ratio, 0.0, "none", 1.0)
    value = Fraction(256 + int(unit.mantissa[0])) / 2 ** int(unit.shift[0])
    assert 0 <= unit.mantissa[0] < 256
    assert 0 <= unit.shift[0] <= 63
    wanted = abs(Fraction(ratio)) * 64
    if wanted >= Fraction(256, 2**63):
        assert abs(value - wanted) <= Fraction(1, 2 ** int(unit.shift[0])) / 2
        assert unit.multiplier()[0] == float(value / 64) * math.copysign(1, ratio)
    else:
        assert (unit.mantissa[0], unit.shift[0]) == (0, 63)


@given(st.floats(1e-4, 0.5), st.floats(-100, 100), st.lists(numbers(-300, 300), min_size=1, max_size=9))
def test_requantisation_follows_the_real_value(ratio, bias, steps):
    psum = np.rint(np.array(steps) / ratio).astype(np.int64)[:, None]
    got = Requantisation.from_real(ratio, bias, "none", 1.0).apply(psum)
    exact = np.clip(psum * ratio + bias, -128, 127)
    assert np.abs(got - exact).max() <= 0.5 + 300 / 512 + 2 / 64


def test_activations_are_limits():
    limits = [Requantisation.from_real(0.1, 0, activation, 0.1) for activation in ("none", "relu", "relu6")]
    assert [(unit.low, unit.high) for unit in limits] == [(-128, 127), (0, 127), (0, 60)]
    assert Requantisation.from_real(0.1, 0, "relu6", 6 / 127).high == 127


def test_saturated_biases_are_counted():
    unit = Requantisation.from_real([0.1, 0.1, 0.1], [2000.0, -1e9, 1023.9], "none", 1.0)
    assert unit.bias.tolist() == [65535, -65535, 65530]
    assert unit.saturated == 2


def test_t_saturates_to_18_bits():
    unit = Requantisation.from_real(1.0, 0.0, "none", 1.0)
    assert unit.scaled(np.array([[-2049], [-2048], [2047], [2048]])).ravel().tolist() == [
        -131072,
        -131072,
        131008,
        131071,
    ]


def test_what_a_word_cannot_say():
    with pytest.raises(
        MvqError, match=r"layer 'a': channel 1 multiplies its sum by -8 output steps, but must be below 7.98"
    ):
        Requantisation.from_real([0.1, -8.0], 0.0, "none", 1.0, "layer 'a'")
    with pytest.raises(MvqError, match="the bias of channel 2 is not finite"):
        Requantisation.from_real(0.1, [0, 0, np.nan], "none", 1.0)
    with pytest.raises(MvqError, match=r"the scale of its output is 0.0"):
        Requantisation.from_real(0.1, 0, "none", 0.0)


def test_pools():
    rng = np.random.default_rng(0)
    x = int8(rng, 2, 3, 7, 6)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 0), (0, 1)), constant_values=-128)
    got = integer.max_pool(x, (3, 2), (2, 1), (1, 0, 0, 1))
    assert got.dtype == np.int8
    unit = Requantisation.from_real(0.25 / 6, 0, "none", 0.2)
    averages = integer.avg_pool(x, (3, 2), (2, 2), unit)
    for i, j in itertools.product(range(3), range(6)):
        assert (got[:, :, i, j] == padded[:, :, 2 * i : 2 * i + 3, j : j + 2].max(axis=(2, 3))).all()
    for i, j in itertools.product(range(3), range(3)):
        window = x[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 2].astype(int)
        assert (averages[:, :, i, j] == unit.apply(window.sum(axis=(2, 3)))).all()
    assert (x == integer.max_pool(x, (1, 1), (1, 1))).all()
    unit = Requantisation.from_real(1 / 42, 0, "none", 1.0)
    mean = integer.global_avg_pool(x, unit)
    assert mean.shape == (2, 3, 1, 1)
    assert np.abs(mean[:, :, 0, 0] - x.mean(axis=(2, 3))).max() <= 0.6


def test_add_sums_before_it_rounds():
    a, b = np.meshgrid(np.arange(-128, 128, dtype=np.int8), np.arange(-128, 128, dtype=np.int8))
    one, two = (Requantisation.from_real(scale, 0.0, "relu", 1.0) for scale in (0.3, 1.1))
    got = integer.add(a, b, one, two)
    ta, tb = (
        [(int(value) * (256 + int(unit.mantissa[0]))) >> int(unit.shift[0]) for value in range(-128, 128)]
        for unit in (one, two)
    )
    expected = [[max(0, min(127, (p + q + 32) >> 6)) for p in ta] for q in tb]
    assert got.tolist() == expected


def test_padding_and_slices():
    x = np.arange(1, 13, dtype=np.int8).reshape(1, 3, 2, 2)
    padded = integer.pad(x, (1, 0, 0, 2), (1, 1))
    assert padded.shape == (1, 5, 3, 4)
    assert (padded[:, 1:4, 1:, :2] == x).all()
    assert padded.sum() == x.sum()
    assert integer.pad(x, (0, 0, 0, 0)) is x
    assert integer.strided_slice(x, (0, 3, 2), (1, 2, 1), (0, 2, 1)).tolist() == [[[[3, 4]], [[11, 12]]]]
