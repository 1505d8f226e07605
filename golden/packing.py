"""Bit-exact layout of small unsigned integers in 64-bit words, shared by the checkpoint, the weight stream and the
reports.

Values follow each other without gaps, the least significant bit first, across word borders; the rest of the last word
is zero. The paper fixes the content of an entry {index, mask code} and the 64-bit bus (sections 5.2 and 7.1), not the
packing: this is our decision.
"""

import math

import numpy as np

from hdl.config import MvqError

__all__ = ["WORD_BITS", "pack_bits", "pack_entries", "unpack_bits", "unpack_entries", "word_count"]

WORD_BITS = 64


def _check_width(width):
    if not 0 <= width <= WORD_BITS:
        raise MvqError(
            f"width = {width}: must be 0 to {WORD_BITS}; the nearest legal value is {0 if width < 0 else WORD_BITS}"
        )


def _unsigned(values, width, what):
    """``values`` as uint64, after a check that each fits ``width`` bits."""
    values = np.asarray(values)
    if values.size and not np.issubdtype(values.dtype, np.integer):
        raise MvqError(f"{what} must be integers, not {values.dtype}")
    wrong = values < 0 if width >= values.dtype.itemsize * 8 else (values < 0) | (values >= 1 << width)
    if np.any(wrong):
        raise MvqError(f"{what}: {int(values[wrong].flat[0])} does not fit {width} unsigned bits")
    return values.astype(np.uint64)


def _period(width):
    """(values, words) after which the alignment of values to words repeats."""
    common = math.gcd(width, WORD_BITS)
    return WORD_BITS // common, width // common


def word_count(count, width):
    """Words that ``count`` values of ``width`` bits fill: ceil(count * width / 64)."""
    return -(-count * width // WORD_BITS)


def pack_bits(values, width):
    """Pack values into words.

    Parameters
    ----------
    values : unsigned integers of any shape, taken in C order.
    width : bits of each, 0 to 64 (with 0, every value must be 0 and no word results).

    Returns
    -------
    uint64 (ceil(count * width / 64),); value i occupies bits i * width .. (i + 1) * width - 1, bit b being bit b % 64
    of word b // 64.

    Raises
    ------
    MvqError : a value is negative or does not fit ``width`` bits.
    """
    _check_width(width)
    values = _unsigned(values, width, "values to pack").ravel()
    if width == 0:
        return np.zeros(0, dtype=np.uint64)
    lanes, words = _period(width)
    periods = -(-values.size // lanes)
    padded = np.zeros((periods, lanes), dtype=np.uint64)
    padded.ravel()[: values.size] = values
    packed = np.zeros((periods, words), dtype=np.uint64)
    for lane in range(lanes):
        word, shift = divmod(lane * width, WORD_BITS)
        packed[:, word] |= padded[:, lane] << np.uint64(shift)
        if shift + width > WORD_BITS:
            packed[:, word + 1] |= padded[:, lane] >> np.uint64(WORD_BITS - shift)
    return packed.ravel()[: word_count(values.size, width)].copy()


def unpack_bits(words, width, count):
    """The inverse of :func:`pack_bits`: ``count`` values of ``width`` bits as uint64 (count,).

    Raises
    ------
    MvqError : there are not exactly the words that ``count`` values fill, or the padding of the last word is not zero.
    """
    _check_width(width)
    words = np.asarray(words)
    if words.dtype != np.uint64 or words.ndim != 1:
        raise MvqError(f"words to unpack must be one row of uint64, not {words.dtype} {words.shape}")
    expected = word_count(count, width)
    if words.size != expected:
        raise MvqError(f"{count} values of {width} bits fill {expected} words, not {words.size}")
    used = count * width % WORD_BITS
    if used and words[-1] >> np.uint64(used):
        raise MvqError(f"the last word holds {used} bits, but bits above them are set")
    if width == 0:
        return np.zeros(count, dtype=np.uint64)
    lanes, period_words = _period(width)
    periods = -(-count // lanes)
    padded = np.zeros((periods, period_words), dtype=np.uint64)
    padded.ravel()[: words.size] = words
    values = np.empty((periods, lanes), dtype=np.uint64)
    for lane in range(lanes):
        word, shift = divmod(lane * width, WORD_BITS)
        values[:, lane] = padded[:, word] >> np.uint64(shift)
        if shift + width > WORD_BITS:
            values[:, lane] |= padded[:, word + 1] << np.uint64(WORD_BITS - shift)
    return values.ravel()[:count] & np.uint64((1 << width) - 1)


def pack_entries(index, codes, index_width, code_width):
    """Entries {index, mask codes} of subvectors, index in the low bits (paper section 5.2; 9 + 11 bits for k=512, 4:16,
    d=16).

    Parameters
    ----------
    index : codebook indices (...).
    codes : mask codes (..., d/M), the code of the vector's first M elements first; d/M is 0 without masks.
    index_width, code_width : bits of an index and of one mask code.

    Returns
    -------
    uint64 (...): index | code_0 << index_width | code_1 << (index_width + code_width) | ...; ready for
    :func:`pack_bits` with the width index_width + d/M * code_width.

    Raises
    ------
    MvqError : a value does not fit its width, or an entry is wider than 64 bits.
    """
    codes = np.asarray(codes)
    width = index_width + codes.shape[-1] * code_width
    if width > WORD_BITS:
        raise MvqError(f"an entry of {width} bits (index and {codes.shape[-1]} mask codes) exceeds {WORD_BITS} bits")
    entries = _unsigned(index, index_width, "codebook index")
    if codes.size == 0:
        return entries
    codes = _unsigned(codes, code_width, "mask code")
    for i in range(codes.shape[-1]):
        entries = entries | codes[..., i] << np.uint64(index_width + i * code_width)
    return entries


def unpack_entries(entries, index_width, code_width, mask_groups):
    """The inverse of :func:`pack_entries`: (index uint64 (...), codes uint64 (..., mask_groups))."""
    entries = np.asarray(entries, dtype=np.uint64)
    index = entries & np.uint64((1 << index_width) - 1)
    shifts = index_width + code_width * np.arange(mask_groups, dtype=np.uint64)
    return index, entries[..., None] >> shifts.astype(np.uint64) & np.uint64((1 << code_width) - 1)
