"""Cut a weight into subvectors along its output channels, and put it together again (paper section 4.3, Fig. 3).

One subvector holds d consecutive output channels at one input channel and one kernel tap, so that an array row (L
output channels) is L/d consecutive subvectors. Output channels that d does not divide are padded; the padding is never
fitted and is dropped on rebuild.
"""

import math

import torch

from hdl.config import MvqError

__all__ = ["group", "group_shape", "real_elements", "ungroup"]


def group_shape(shape, vector_length):
    """(ceil(K / d), C, kh, kw) for a weight (K, C, kh, kw) or (K, F); its product is NG, the number of subvectors."""
    if vector_length < 1:
        raise MvqError(f"vector_length = {vector_length}: must be at least 1")
    if len(shape) not in (2, 4):
        raise MvqError(f"a weight to group must be (K, C, kh, kw) or (K, F), not {tuple(shape)}")
    return (-(-shape[0] // vector_length), *shape[1:])


def group(weight, vector_length):
    """Subvectors of a weight.

    Parameters
    ----------
    weight : (K, C, kh, kw) or (K, F), any dtype.
    vector_length : d.

    Returns
    -------
    (NG, d), in the order (ceil(K / d), C, kh, kw); padded output channels are 0.
    """
    groups, *rest = group_shape(weight.shape, vector_length)
    padded = weight.new_zeros((groups * vector_length, *rest))
    padded[: weight.shape[0]] = weight
    return padded.reshape(groups, vector_length, -1).transpose(1, 2).reshape(-1, vector_length)


def ungroup(vectors, shape):
    """The weight of ``shape`` whose subvectors are ``vectors`` (NG, d): the inverse of :func:`group`."""
    groups, *rest = group_shape(shape, vectors.shape[1])
    count = groups * math.prod(rest)
    if vectors.shape[0] != count:
        raise MvqError(f"a weight {tuple(shape)} has {count} subvectors of {vectors.shape[1]}, not {vectors.shape[0]}")
    padded = vectors.reshape(groups, -1, vectors.shape[1]).transpose(1, 2)
    return padded.reshape(groups * vectors.shape[1], *rest)[: shape[0]]


def real_elements(shape, vector_length):
    """Bool (NG, d): False where an element is padding, not a weight."""
    return group(torch.ones(tuple(shape), dtype=torch.bool), vector_length)
