"""Numbers to rows of bytes and back: how payloads travel between the processes of a simulation.

A row is one payload as a big-endian integer; the first number of a payload lies in its low bits.
"""

import numpy as np

__all__ = ["binary_text", "numbers", "rows", "rows_of_integers", "rows_of_text"]


def _from_digits(digits):
    """Rows of binary digits, padded in front to whole bytes, packed."""
    return np.packbits(np.pad(digits, ((0, 0), (-digits.shape[1] % 8, 0))), axis=1)


def rows(values, width):
    """Integers (n, count) of ``width`` bits each, two's complement where negative; uint8 (n, bytes).

    Raises
    ------
    ValueError : a number does not fit.
    """
    values = np.asarray(values).astype(np.int64)
    if values.size and not (-(1 << (width - 1)) <= values.min() and values.max() < 1 << min(width, 63)):
        raise ValueError(f"numbers from {values.min()} to {values.max()} do not fit {width} bits")
    shifts = np.minimum(np.arange(width - 1, -1, -1), 63)
    digits = ((values[:, ::-1, None] >> shifts) & 1).astype(np.uint8)
    return _from_digits(digits.reshape(len(values), values.shape[1] * width))


def rows_of_integers(values, width):
    """Non-negative Python integers of ``width`` bits, of any size; uint8 (n, bytes)."""
    size = -(-width // 8)
    return np.frombuffer(b"".join(int(value).to_bytes(size, "big") for value in values), np.uint8).reshape(-1, size)


def rows_of_text(text, width):
    """Binary numbers of ``width`` digits, one after another; uint8 (n, bytes).

    Raises
    ------
    ValueError : a digit is neither 0 nor 1, such as the x of an undefined value.
    """
    digits = np.frombuffer(text.encode(), np.uint8).reshape(-1, width)
    undefined = np.argwhere(digits >> 1 != ord("0") >> 1)
    if len(undefined):
        row, place = undefined[0]
        raise ValueError(f"bit {width - 1 - place} of number {row} is {chr(digits[row, place])!r}")
    return _from_digits(digits - ord("0"))


def numbers(packed, count, width, *, start=0, signed=True):
    """Inverse of :func:`rows`: ``count`` numbers of ``width`` bits, from bit ``start`` on; int64 (n, count)."""
    digits = np.unpackbits(packed, axis=1)
    end = digits.shape[1] - start
    digits = digits[:, end - count * width : end].reshape(len(packed), count, width)
    weights = 1 << np.arange(width - 1, -1, -1, dtype=np.int64)
    weights[0] *= -1 if signed else 1
    return (digits @ weights)[:, ::-1]


def binary_text(packed, width, chunk=4096):
    """Yield each row as ``width`` binary digits; ``chunk`` rows are unpacked at a time."""
    for start in range(0, len(packed), chunk):
        digits = np.unpackbits(packed[start : start + chunk], axis=1)
        text = (digits[:, digits.shape[1] - width :] + ord("0")).tobytes().decode()
        yield from (text[at : at + width] for at in range(0, len(text), width))
