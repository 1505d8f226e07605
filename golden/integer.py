"""Integer arithmetic of the accelerator, bit for bit.

Activations and weights are int8, symmetric (zero is 0); sums are exact and held in int64 here, whatever width the
hardware gives them. Images are (N, C, H, W), vectors (N, F). The paper leaves requantisation open: what follows is our
decision, one 32-bit word for each channel.

| bits | field | meaning |
|---|---|---|
| 0-7 | mantissa | the multiplier is (256 + mantissa) / 2**shift, in 1/64 of an output step per step of the sum |
| 8-13 | shift | 0 to 63 |
| 14 | sign | 1: the product is negated before the shift |
| 15-31 | bias | two's complement, in 1/64 of an output step |

    t = saturate18((+-psum * (256 + mantissa)) >> shift)         # the shift floors
    y = clamp((t + bias + 32) >> 6, low, high)                   # rounds half up
"""

import math
from dataclasses import dataclass

import numpy as np

from hdl.config import MvqError

__all__ = [
    "Requantisation",
    "add",
    "avg_pool",
    "conv2d",
    "global_avg_pool",
    "linear",
    "max_pool",
    "pad",
    "strided_slice",
]

#: fractional bits of t and bias.
FRACTION = 6
HALF = 1 << (FRACTION - 1)
#: largest magnitude of a bias, and the range of t.
BIAS_LIMIT = (1 << 16) - 1
T_LOW, T_HIGH = -(1 << 17), (1 << 17) - 1
SHIFT_LIMIT = 63
#: multipliers (output steps per step of the sum) from here on are refused; 511 / 64 is the largest that a word can say.
SCALE_LIMIT = 7.98


def _clamp_range(activation, output_scale):
    """(low, high) int8 limits that realise ``activation`` when one output step is worth ``output_scale``."""
    if activation == "none":
        return -128, 127
    return 0, 127 if activation == "relu" else min(127, round(6 / output_scale))


@dataclass(frozen=True, eq=False)
class Requantisation:
    """From sums to int8: one word for each channel, or a single one for all channels.

    Parameters
    ----------
    mantissa, shift, sign, bias : int64 (K,) or (1,), the fields of the module's table; ``sign`` is 0 or 1, ``bias``
        signed.
    low, high : int8 limits of the result, which realise the activation.
    saturated : channels whose real bias lay beyond the 17 bits (1023 output steps) and was saturated.
    """

    mantissa: np.ndarray
    shift: np.ndarray
    sign: np.ndarray
    bias: np.ndarray
    low: int
    high: int
    saturated: int = 0

    @classmethod
    def from_real(cls, scale, bias, activation, output_scale, name="requantisation"):
        """The word nearest to y = activation(psum * scale + bias) / output_scale.

        Multipliers are rounded to nine significant bits, biases to 1/64 of an output step; a multiplier of 0, or too
        small for a shift of 63, becomes the smallest there is, 2**-61.

        Parameters
        ----------
        scale : real value of one step of the sum, by channel, (K,) or a scalar.
        bias : real, (K,) or a scalar.
        activation : ``none``, ``relu`` or ``relu6``.
        output_scale : real value of one step of the result.
        name : the layer, for errors.

        Raises
        ------
        MvqError : a value is not finite, or a multiplier scale / output_scale is 7.98 or more.
        """
        scale, bias = np.broadcast_arrays(
            np.atleast_1d(np.asarray(scale, np.float64)), np.atleast_1d(np.asarray(bias, np.float64))
        )
        if not (math.isfinite(output_scale) and output_scale > 0):
            raise MvqError(f"{name}: the scale of its output is {output_scale}, but must be finite and above 0")
        with np.errstate(over="ignore"):
            ratio, steps = scale / output_scale, np.rint(bias / output_scale * (1 << FRACTION))
        for what, values in (("multiplier", ratio), ("bias", steps)):
            if not np.isfinite(values).all():
                raise MvqError(f"{name}: the {what} of channel {int(np.argmin(np.isfinite(values)))} is not finite")
        if (np.abs(ratio) >= SCALE_LIMIT).any():
            channel = int(np.argmax(np.abs(ratio)))
            raise MvqError(
                f"{name}: channel {channel} multiplies its sum by {ratio[channel]:.4g} output steps, but must be below "
                f"{SCALE_LIMIT}; its calibrated output range is too small"
            )
        fraction, exponent = np.frexp(np.abs(ratio) * (1 << FRACTION))  # fraction in [0.5, 1), or 0
        multiplier = np.rint(fraction * 512).astype(np.int64)  # 256 .. 512, or 0
        shift = 9 - exponent.astype(np.int64)
        carry = multiplier == 512
        multiplier, shift = np.where(carry, 256, multiplier), shift - carry
        tiny = (multiplier == 0) | (shift > SHIFT_LIMIT)
        low, high = _clamp_range(activation, output_scale)
        return cls(
            mantissa=np.where(tiny, 0, multiplier - 256),
            shift=np.where(tiny, SHIFT_LIMIT, shift),
            sign=(ratio < 0).astype(np.int64),
            bias=np.clip(steps, -BIAS_LIMIT, BIAS_LIMIT).astype(np.int64),
            low=low,
            high=high,
            saturated=int((np.abs(steps) > BIAS_LIMIT).sum()),
        )

    def words(self):
        """uint32 (K,): the words that the hardware reads."""
        bias = self.bias & 0x1FFFF
        return (self.mantissa | self.shift << 8 | self.sign << 14 | bias << 15).astype(np.uint32)

    @classmethod
    def from_words(cls, words, low, high):
        """The inverse of :meth:`words`."""
        words = np.asarray(words, dtype=np.uint32).astype(np.int64)
        bias = words >> 15
        return cls(words & 255, words >> 8 & 63, words >> 14 & 1, bias - (bias >> 16 << 17), low, high)

    def multiplier(self):
        """float64 (K,): the real multiplier, in output steps per step of the sum, that the words express."""
        return np.where(self.sign, -1.0, 1.0) * (256 + self.mantissa) * 0.5 ** (self.shift + FRACTION)

    def scaled(self, psum):
        """t: ``psum`` (N, K, ...) in 1/64 of an output step, saturated to 18 bits; int64."""
        psum = np.asarray(psum, dtype=np.int64)
        mantissa, shift, sign = (self._by_channel(key, psum) for key in (self.mantissa, self.shift, self.sign))
        product = psum * np.where(sign, -256 - mantissa, 256 + mantissa)
        return np.clip(product >> shift, T_LOW, T_HIGH)

    def apply(self, psum):
        """int8 (N, K, ...) from sums (N, K, ...)."""
        return self._round(self.scaled(psum) + self._by_channel(self.bias, psum))

    def _round(self, t):
        return np.clip((t + HALF) >> FRACTION, self.low, self.high).astype(np.int8)

    @staticmethod
    def _by_channel(values, psum):
        return values.reshape(-1, *[1] * (np.ndim(psum) - 2))


def pad(x, spatial, channels=(0, 0), value=0):
    """``x`` (N, C, H, W) with [top, bottom, left, right] pixels and [front, back] channels of ``value`` around it."""
    if not any(spatial) and not any(channels):
        return x
    top, bottom, left, right = spatial
    return np.pad(x, ((0, 0), tuple(channels), (top, bottom), (left, right)), constant_values=value)


def _taps(x, kernel, stride):
    """For each tap (ky, kx) of the kernel, the pixels (N, C, H', W') that it meets in ``x``."""
    sizes = [(extent - k) // s + 1 for extent, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
    for ky in range(kernel[0]):
        for kx in range(kernel[1]):
            rows = slice(ky, ky + (sizes[0] - 1) * stride[0] + 1, stride[0])
            columns = slice(kx, kx + (sizes[1] - 1) * stride[1] + 1, stride[1])
            yield (ky, kx), x[:, :, rows, columns]


def conv2d(x, weight, stride=(1, 1), padding=(0, 0, 0, 0), groups=1):
    """Exact sums of a convolution.

    Parameters
    ----------
    x : integers (N, C, H, W).
    weight : integers (K, C / groups, kh, kw).
    stride : [rows, columns].
    padding : [top, bottom, left, right] pixels of zero.

    Returns
    -------
    int64 (N, K, H', W').
    """
    batch, out_channels = x.shape[0], weight.shape[0]
    x = pad(x, padding).astype(np.float64)  # sums stay far below 2**53, so float64 products are exact, and fast
    taps = np.moveaxis(weight.astype(np.float64), (2, 3), (0, 1))  # (kh, kw, K, C / groups)
    taps = np.ascontiguousarray(taps).reshape(*weight.shape[2:], groups, out_channels // groups, -1)
    total = 0.0
    for tap, pixels in _taps(x, weight.shape[2:], stride):
        size = pixels.shape[2:]
        total = total + taps[tap] @ pixels.reshape(batch, groups, -1, size[0] * size[1])
    return total.reshape(batch, out_channels, *size).astype(np.int64)


def linear(x, weight):
    """Exact sums int64 (N, K) of ``x`` (N, F) and ``weight`` (K, F)."""
    return (x.astype(np.float64) @ weight.T.astype(np.float64)).astype(np.int64)


def max_pool(x, kernel, stride, padding=(0, 0, 0, 0)):
    """int8 (N, C, H', W'): the largest of each window; padding never wins."""
    result = None
    for _, pixels in _taps(pad(x, padding, value=-128), kernel, stride):
        result = pixels.copy() if result is None else np.maximum(result, pixels, out=result)
    return result


def avg_pool(x, kernel, stride, requantisation):
    """int8 (N, C, H', W'): the sum of each window, requantised; the divisor is part of the multiplier."""
    return requantisation.apply(sum(pixels.astype(np.int64) for _, pixels in _taps(x, kernel, stride)))


def global_avg_pool(x, requantisation):
    """int8 (N, C, 1, 1): :func:`avg_pool` over the whole image."""
    return requantisation.apply(x.sum(axis=(2, 3), keepdims=True, dtype=np.int64))


def add(a, b, scale_a, scale_b):
    """int8: the sum of two int8 arrays, each brought to the output's steps by a :class:`Requantisation` whose bias is
    not used."""
    return scale_a._round(scale_a.scaled(a) + scale_b.scaled(b))


def strided_slice(x, channels, rows, columns):
    """``x`` (N, C, H, W) cut by [start, stop, step] along each axis but the first."""
    return x[:, slice(*channels), slice(*rows), slice(*columns)]
