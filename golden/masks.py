"""Codes for N:M masks: which n of m neighbouring weights survive, as one small integer.

The paper stores masks as ceil(log2 C(M, N)) bits (section 5, eq. 7) and leaves the order of the codes open. Ours is the
combinatorial number system in colexicographic order: positions c_1 < c_2 < ... < c_n have the code C(c_1, 1) + C(c_2,
2) + ... + C(c_n, n). It is dense (0 .. C(m, n) - 1), and decodes with n comparisons against a small table of binomials.
"""

import functools
import math

import numpy as np

from hdl.config import MvqError

__all__ = ["decode_masks", "encode_masks", "mask_code_width", "mask_positions"]

#: every binomial up to C(64, 32) fits 64 bits.
_LARGEST_GROUP = 64


def _check(n, m):
    if not 1 <= m <= _LARGEST_GROUP:
        raise MvqError(
            f"m = {m}: must be 1 to {_LARGEST_GROUP}; the nearest legal value is {min(max(m, 1), _LARGEST_GROUP)}"
        )
    if not 1 <= n <= m:
        raise MvqError(f"n = {n}: must be 1 to m = {m}; the nearest legal value is {min(max(n, 1), m)}")


@functools.cache
def _binomials(n, m):
    """C(position, i + 1) as int64 (n, m): what the i-th one of a mask adds to the code at each position."""
    return np.array([[math.comb(position, i + 1) for position in range(m)] for i in range(n)], dtype=np.int64)


def mask_code_width(n, m):
    """Bits of one mask code, ceil(log2 C(m, n)): 11 for 4:16, 1 for 1:2, 0 when n equals m (paper section 5)."""
    _check(n, m)
    return (math.comb(m, n) - 1).bit_length()


def encode_masks(masks, n):
    """Code of each mask.

    Parameters
    ----------
    masks : bool (..., m), True where a weight survives; each with exactly ``n`` ones.
    n : ones in a mask.

    Returns
    -------
    Unsigned integers (...), the narrowest of 16, 32 or 64 bits that holds every code of n:m.

    Raises
    ------
    MvqError : a mask has another count of ones.
    """
    masks = np.asarray(masks, dtype=bool)
    m = masks.shape[-1]
    width = mask_code_width(n, m)
    rank = np.cumsum(masks, axis=-1)
    wrong = rank[..., -1] != n
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise MvqError(f"mask {where} has {int(rank[where][-1])} ones of {m}, not n = {n}")
    terms = _binomials(n, m)[np.maximum(rank - 1, 0), np.arange(m)]
    codes = np.where(masks, terms, 0).sum(axis=-1)
    return codes.astype(np.uint16 if width <= 16 else np.uint32 if width <= 32 else np.uint64)


def mask_positions(codes, n, m):
    """Positions of the ones of each mask, ascending.

    Parameters
    ----------
    codes : integers (...), each below C(m, n).
    n, m : n ones of m.

    Returns
    -------
    uint8 (..., n).

    Raises
    ------
    MvqError : a code is negative or not below C(m, n).
    """
    _check(n, m)
    codes = np.asarray(codes)
    if not np.issubdtype(codes.dtype, np.integer):
        raise MvqError(f"mask codes must be integers, not {codes.dtype}")
    wrong = (codes < 0) | (codes >= math.comb(m, n))
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise MvqError(f"mask code {int(codes[where])} at {where}: {n}:{m} has the codes 0 to {math.comb(m, n) - 1}")
    rest = codes.astype(np.int64)
    positions = np.empty((*codes.shape, n), dtype=np.uint8)
    for i, terms in reversed(list(enumerate(_binomials(n, m)))):
        position = np.searchsorted(terms, rest, side="right") - 1  # the largest whose term still fits
        rest = rest - terms[position]
        positions[..., i] = position
    return positions


def decode_masks(codes, n, m):
    """Masks bool (..., m) of ``codes`` (...): the inverse of :func:`encode_masks`; raises as :func:`mask_positions`
    does."""
    positions = mask_positions(codes, n, m)
    masks = np.zeros((*positions.shape[:-1], m), dtype=bool)
    np.put_along_axis(masks, positions.astype(np.intp), True, axis=-1)
    return masks
