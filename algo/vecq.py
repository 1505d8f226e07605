"""VecQ: uniform quantisation of a layer's weights to k bits by their direction (Gong et al., IEEE TC 2020).

The weights of a layer are one vector w. *Steering* chooses integers c so that v = c + 1/2 points as w does, which is to
minimise J_o = 1 - cos(w, v); *driving* gives v its length, alpha = (w . v) / (v . v), which minimises
J_m = ||w - alpha v||^2. There is no zero among the values. What is stored is 2v = 2c + 1 with the scale alpha / 2.
"""

import numpy as np
import torch
from torch import nn

from golden import checkpoint as formats
from hdl.config import MvqError

__all__ = ["MOST_BITS", "STEPS", "VecqWeight", "check_bits", "drive", "orientation_loss", "steer"]

#: lambda_k of the authors' code: the step of k bits in deviations of the weights, for k = 1 to 8. It minimises J_o of
#: normally distributed weights.
STEPS = (1.0000, 0.9957, 0.5860, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308)
#: 2c + 1 of more bits does not fit int8.
MOST_BITS = 7

#: keeps the step and the scale of weights that are all 0 above 0.
_EPSILON = 1e-30


def check_bits(bits):
    """Raise MvqError unless a layer of ``bits`` can be stored."""
    if not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= MOST_BITS:
        nearest = MOST_BITS if isinstance(bits, int) and bits > MOST_BITS else 1
        reason = " (2c + 1 with c of 8 bits does not fit int8)" if nearest == MOST_BITS else ""
        raise MvqError(
            f"weight_bits = {bits!r}: must be an integer from 1 to {MOST_BITS}{reason}; "
            f"the nearest legal value is {nearest}"
        )


def steer(weights, bits, gain=1.0):
    """v = c + 1/2 for every weight, in their shape; c has ``bits`` bits, 1 to 8.

    Parameters
    ----------
    weights : float tensor, the vector w; the mean is not subtracted.
    bits : k.
    gain : what the step is multiplied with.
    """
    step = gain * (STEPS[bits - 1] * weights.std(correction=0) + _EPSILON)
    highest = 2 ** (bits - 1)
    return torch.round(torch.clamp(weights / step - 0.5, -highest, highest - 1)) + 0.5


def drive(weights, direction):
    """alpha, float (): the length of ``direction`` v with which alpha v is nearest to ``weights``."""
    return (weights * direction).sum() / (direction * direction).sum()


def orientation_loss(weights, direction):
    """J_o = 1 - cos(w, v), in float64."""
    w, v = weights.double(), direction.double()
    return float(1 - (w * v).sum() / torch.sqrt((w * w).sum() * (v * v).sum()))


class VecqWeight(nn.Module):
    """A weight in k bits with one scale, quantised anew whenever it is used.

    Parameters
    ----------
    weight : float32 (K, ...).
    bits : k, 1 to 7.
    gain : what the step is multiplied with; 1 but for a stored layer.
    """

    def __init__(self, weight, bits, gain=1.0):
        super().__init__()
        check_bits(bits)
        self.bits = bits
        self.weight = nn.Parameter(weight.detach().float().clone())
        self.register_buffer("gain", torch.tensor(float(gain), dtype=torch.float32))

    @classmethod
    def stored(cls, layer):
        """The weight of a :class:`golden.checkpoint.DenseLayer`: its integers, of which one step is 2.

        The step is as large a part of their deviation from then on, so that they are quantised to themselves.
        """
        levels = torch.from_numpy(layer.weight.astype(np.float32))
        step = STEPS[layer.bits - 1] * float(levels.std(correction=0)) + _EPSILON
        return cls(levels, layer.bits, 2 / step)

    @property
    def scale(self):
        """Float32 (): alpha / 2, what one step of :meth:`levels` is worth."""
        with torch.no_grad():
            return (drive(self.weight, steer(self.weight, self.bits, self.gain)) / 2).clamp(min=_EPSILON)

    def forward(self):
        """Real weight alpha v; the gradient passes straight through."""
        with torch.no_grad():
            quantised = self.levels() * self.scale
        return self.weight + (quantised - self.weight).detach()

    @torch.no_grad()
    def levels(self):
        """Integer weight 2c + 1, as float32."""
        return 2 * steer(self.weight, self.bits, self.gain)

    def store(self, codebooks, **affine):
        """The layer in the checkpoint's form."""
        weight = self.levels().cpu().numpy().astype(np.int8)
        return formats.DenseLayer(weight=weight, bits=self.bits, **affine)
