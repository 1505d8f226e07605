"""Symmetric codebook of 2 to 8 bits with one scale (paper section 4.5, eq. 5), and its gradients (eq. 6, LSQ)."""

import math

import torch

from hdl.config import MvqError

__all__ = ["HIGH", "MaskedLookup", "Quantise", "fit_scale", "limits", "quantise"]

#: largest signed 8-bit value.
HIGH = 127


def limits(bits):
    """Least and largest signed value of ``bits`` bits."""
    return -(1 << bits - 1), (1 << bits - 1) - 1


def quantise(values, scale, bits=8):
    """clamp(round(values / scale), -2^(bits - 1), 2^(bits - 1) - 1), integers as float in the shape of ``values``;
    ``scale`` broadcasts."""
    return torch.clamp(torch.round(values / scale), *limits(bits))


def fit_scale(values, weights=None, bits=8, steps=64):
    """The scale with the least squared error, of ``steps`` between all of the range and a part that halves with each
    bit less: half at 8 bits, as the fewer the bits, the more is won by clipping.

    Parameters
    ----------
    values : float tensor of any shape.
    weights : how much each value counts (the weights that use a codeword's element); all alike when None.
    bits : q_c, 2 to 8.
    steps : scales that are tried.

    Returns
    -------
    float : the scale s_w; 1.0 when every value is 0.

    Raises
    ------
    MvqError : a value is NaN or infinite.
    """
    if not torch.isfinite(values).all():
        raise MvqError("values to quantise must be finite, but some are NaN or infinite")
    full = float(values.abs().max()) / limits(bits)[1]
    if full == 0.0:
        return 1.0
    exact = values.double()
    importance = torch.ones_like(exact) if weights is None else weights.double()
    best_error, best, span = math.inf, full, 1 - 2.0 ** (bits - 9)
    for step in range(steps):
        scale = float(torch.tensor(full * (1 - span * step / steps), dtype=torch.float32))
        error = float((importance * (quantise(exact, scale, bits) * scale - exact) ** 2).sum())
        if scale > 0.0 and error < best_error:
            best_error, best = error, scale
    return best


class Quantise(torch.autograd.Function):
    """Fake quantisation with a learned step size (LSQ, which the paper's section 4.5 uses for s_w).

    The value's gradient passes inside the range; the scale's is round(v/s) - v/s inside and the bound outside, times
    1/sqrt(count * (2^(bits - 1) - 1)).
    """

    @staticmethod
    def forward(ctx, values, scale, bits=8):
        ratio = values / scale
        level = torch.clamp(torch.round(ratio), *limits(bits))
        ctx.save_for_backward(ratio, level)
        ctx.limits = limits(bits)
        return level * scale

    @staticmethod
    def backward(ctx, gradient):
        ratio, level = ctx.saved_tensors
        low, high = ctx.limits
        inside = (ratio >= low) & (ratio <= high)
        step = torch.where(inside, level - ratio, level)
        scale_gradient = (gradient * step).sum() / math.sqrt(ratio.numel() * high)
        return gradient * inside, scale_gradient, None


class MaskedLookup(torch.autograd.Function):
    """Subvectors codebook[assignment] o mask, with the codeword gradient of the paper's eq. 6.

    The gradient of an element of a codeword is the mean of the gradients of the weights that use it:
    sum_p (dL/dv_p o n_p) / sum_p n_p; 0 where no weight does.
    """

    @staticmethod
    def forward(ctx, codebook, assignment, mask):
        """codebook float (k, d), assignment int64 (NG,), mask in the dtype of the codebook (NG, d) -> (NG, d)."""
        ctx.save_for_backward(assignment, mask)
        ctx.codewords = codebook.shape[0]
        return codebook[assignment] * mask

    @staticmethod
    def backward(ctx, gradient):
        assignment, mask = ctx.saved_tensors
        total = gradient.new_zeros(ctx.codewords, gradient.shape[1]).index_add_(0, assignment, gradient * mask)
        uses = gradient.new_zeros(ctx.codewords, gradient.shape[1]).index_add_(0, assignment, mask)
        return total / uses.clamp(min=1), None, None
