"""Two offsets of a mask in fewer bits: the form in which the position file (MRF) keeps them.

The offsets of a group ascend. Pairs ``low <= high`` of S values (S odd) fill one half of a square; folded along its
middle they fill a rectangle of S by (S + 1)/2: at 4:16 13 x 7, which is 7 bits a pair instead of 8.
"""

from amaranth.hdl import Cat, Mux, Signal

from ..config import address_width

__all__ = ["fold", "fold_numbers", "folded_width", "unfold", "unfold_lines"]


def _sizes(reach):
    """(S, half): the odd number of values, and the largest short coordinate."""
    values = reach | 1
    return values, values // 2


def folded_width(reach):
    """Bits of a folded pair of offsets below ``reach``, or None where folding saves nothing."""
    values, half = _sizes(reach)
    width = address_width(values) + address_width(half + 1)
    return width if width < 2 * address_width(reach) else None


def fold_numbers(low, high, reach):
    """The pair ``low <= high`` (integers or arrays) as :func:`fold` stores it."""
    values, half = _sizes(reach)
    beyond = low > half
    short = low + beyond * (values - 2 * low)
    long = high + beyond * (values - 1 - 2 * high)
    return long | short << address_width(values)


def fold(m, name, low, high, reach):
    """The pair ``low <= high`` below ``reach`` in :func:`folded_width` bits: the long coordinate, then the short."""
    values, half = _sizes(reach)
    beyond = Signal(name=f"{name}_beyond")
    short, long = Signal(range(half + 1), name=f"{name}_short"), Signal(range(values), name=f"{name}_long")
    m.d.comb += [
        beyond.eq(low > half),
        short.eq(Mux(beyond, values - low, low)),
        long.eq(Mux(beyond, values - 1 - high, high)),
    ]
    return Cat(long, short)


def _parts(m, name, pair, reach):
    values, half = _sizes(reach)
    long, short = Signal(range(values), name=f"{name}_long"), Signal(range(half + 1), name=f"{name}_short")
    straight = Signal(name=f"{name}_straight")
    m.d.comb += [Cat(long, short).eq(pair), straight.eq(long >= short)]
    return long, short, straight


def unfold(m, name, pair, reach):
    """(low, high) of a folded pair."""
    values, _ = _sizes(reach)
    long, short, straight = _parts(m, name, pair, reach)
    return Mux(straight, short, values - short), Mux(straight, long, values - 1 - long)


def unfold_lines(m, name, pair, reach):
    """One-hot lines (low, high) of a folded pair, ``reach`` values each, without going through binary numbers."""
    values, half = _sizes(reach)
    long, short, straight = _parts(m, name, pair, reach)
    low, high = [], []
    for value in range(reach):
        low.append((short == value) & straight if value <= half else (short == values - value) & ~straight)
        # a long coordinate of half or more is never below the short one, and one below the short one is below half
        if value < half:
            high.append((long == value) & straight)
        elif value == half:
            high.append(long == value)
        else:
            high.append((long == value) | ((long == values - 1 - value) & ~straight))
    return low, high
