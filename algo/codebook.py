"""8-bit symmetric codebook with one scale (paper section 4.5, eq. 5), and the gradients that train it (eq. 6, LSQ)."""

import math

import torch

from hdl.config import MvqError

__all__ = ["HIGH", "LOW", "MaskedLookup", "Quantise", "fit_scale", "quantise"]

#: range of a signed 8-bit value.
LOW, HIGH = -128, 127


def quantise(values, scale):
    """clamp(round(values / scale), -128, 127), integers as float in the shape of ``values``; ``scale`` broadcasts."""
    return torch.clamp(torch.round(values / scale), LOW, HIGH)


def fit_scale(values, weights=None, steps=64):
    """The scale, of ``steps`` between half and all of the full range, with the least squared error.

    Parameters
    ----------
    values : float tensor of any shape.
    weights : how much each value counts (the weights that use a codeword's element); all alike when None.
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
    full = float(values.abs().max()) / HIGH
    if full == 0.0:
        return 1.0
    exact = values.double()
    importance = torch.ones_like(exact) if weights is None else weights.double()
    best_error, best = math.inf, full
    for step in range(steps):
        scale = float(torch.tensor(full * (1 - 0.5 * step / steps), dtype=torch.float32))
        error = float((importance * (quantise(exact, scale) * scale - exact) ** 2).sum())
        if scale > 0.0 and error < best_error:
            best_error, best = error, scale
    return best


class Quantise(torch.autograd.Function):
    """Fake quantisation with a learned step size (LSQ, which the paper's section 4.5 uses for s_w).

    The value's gradient passes inside the range; the scale's is round(v/s) - v/s inside and the bound outside, times
    1/sqrt(count * 127).
    """

    @staticmethod
    def forward(ctx, values, scale):
        ratio = values / scale
        level = torch.clamp(torch.round(ratio), LOW, HIGH)
        ctx.save_for_backward(ratio, level)
        return level * scale

    @staticmethod
    def backward(ctx, gradient):
        ratio, level = ctx.saved_tensors
        inside = (ratio >= LOW) & (ratio <= HIGH)
        step = torch.where(inside, level - ratio, level)
        scale_gradient = (gradient * step).sum() / math.sqrt(ratio.numel() * HIGH)
        return gradient * inside, scale_gradient


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
