"""N:M magnitude pruning along the output channels (paper sections 4.1 and 4.3)."""

import torch

from hdl.config import MvqError

__all__ = ["magnitude_masks"]


def magnitude_masks(vectors, n, m):
    """Keep the n weights of largest magnitude of every m neighbours of a subvector; of equal ones, the first.

    Parameters
    ----------
    vectors : float (NG, d), d a multiple of ``m``.
    n, m : n of every m consecutive elements survive.

    Returns
    -------
    bool (NG, d) with exactly n ones in every m elements.

    Raises
    ------
    MvqError : n or m does not fit, or a weight is NaN or infinite.
    """
    if not 1 <= n <= m:
        raise MvqError(f"n = {n}: must be 1 to m = {m}; the nearest legal value is {min(max(n, 1), m)}")
    length = vectors.shape[-1]
    if length % m:
        raise MvqError(
            f"vector_length = {length}: must be a multiple of m = {m}; "
            f"the nearest legal value is {max(m, round(length / m) * m)}"
        )
    if not torch.isfinite(vectors).all():
        raise MvqError("weights to prune must be finite, but some are NaN or infinite")
    groups = vectors.abs().reshape(-1, m)
    order = groups.sort(dim=1, descending=True, stable=True).indices[:, :n]
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order, True).reshape(vectors.shape)
