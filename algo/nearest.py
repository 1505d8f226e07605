"""Compiled loops of masked k-means over vectors that are sorted by mask, so that only the weights that survive count.

A sorted vector s has the mask of group ``member[s]``, whose surviving positions are ``positions[group, :kept[group]]``;
``values[t, s]`` is its weight at the t-th of them.

The least cost of a vector over all codewords is searched in float32, four codewords (a tile) and a few hundred vectors
at a time, without storing costs: for each vector the least cost of any tile, that tile, and the least cost of any other
tile. Where the two are further apart than the rounding errors can be, the winner is in that tile, and is decided among
its four in float64; elsewhere all codewords are compared in float64.
"""

import numba
import numpy as np

__all__ = ["accumulate", "assign", "errors", "lower"]

#: codewords in a tile, and terms of a cost that are added at once.
TILE = 4
#: vectors are searched in whole multiples of these, which fill a register of the processor.
LANES = 16
#: unit roundoff of float32, and its smallest normal number, which bounds what underflow loses in one operation.
ROUNDOFF, UNDERFLOW = 2.0**-24, 2.0**-126
#: terms whose magnitudes add up to no more than this do not overflow float32.
OVERFLOW = 2.0**127

#: elements of the codewords that fill up the last tile: their costs exceed those of any float32.
_NEVER = 1e150

_OPTIONS = {"nogil": True, "cache": True, "error_model": "numpy"}


# multiplications and additions may fuse; nothing else that could move a cost beyond its bound
@numba.njit(fastmath={"contract"}, **_OPTIONS)
def _scan(terms, factors, constant, sums, least, second, winner):
    """Least cost of any tile, the least of the other tiles, and the tile, of each of ``least.size`` vectors.

    ``terms`` float32 (blocks, 4, vectors), ``factors`` (tiles, blocks, 4, TILE), ``constant`` (tiles, TILE), ``sums``
    (TILE, vectors) is space.
    """
    count = len(least)
    last = len(terms) - 1
    least[:], second[:], winner[:] = np.inf, np.inf, 0
    for tile in range(len(factors)):
        start = constant[tile]
        for lane in range(TILE):
            sums[lane, :count] = start[lane]
        for block in range(last):
            factor, term = factors[tile, block], terms[block]
            for row in range(count):
                for lane in range(TILE):
                    cost = sums[lane, row]
                    for t in range(4):
                        cost += term[t, row] * factor[t, lane]
                    sums[lane, row] = cost
        factor, term = factors[tile, last], terms[last]
        for row in range(count):
            low = np.float32(np.inf)
            for lane in range(TILE):
                cost = sums[lane, row]
                for t in range(4):
                    cost += term[t, row] * factor[t, lane]
                low = cost if cost < low else low
            best = least[row]
            other = low if low > best else best
            second[row] = other if other < second[row] else second[row]
            winner[row] = tile if low < best else winner[row]
            least[row] = low if low < best else best


@numba.njit(fastmath={"contract"}, **_OPTIONS)
def _scan_panel(terms, factors, constant, least, second, winner):
    """:func:`_scan` for costs of up to four terms: ``terms`` float32 (4, vectors), ``factors`` (tiles, 4, TILE)."""
    count = len(least)
    least[:], second[:], winner[:] = np.inf, np.inf, 0
    for tile in range(len(factors)):
        start, factor = constant[tile], factors[tile]
        for row in range(count):
            low = np.float32(np.inf)
            for lane in range(TILE):
                cost = start[lane]
                for t in range(4):
                    cost += terms[t, row] * factor[t, lane]
                low = cost if cost < low else low
            best = least[row]
            other = low if low > best else best
            second[row] = other if other < second[row] else second[row]
            winner[row] = tile if low < best else winner[row]
            least[row] = low if low < best else best


@numba.njit(inline="always", **_OPTIONS)
def _decide(values, place, count, exact, first, stop):
    """The codeword in the tiles from ``first`` to before ``stop`` with the least cost in float64; of equals, the first.

    ``values`` float32 (at least ``count``, vectors), of which the vector at ``place`` counts; ``exact`` float64 (tiles,
    at least ``count``, TILE). A tile's costs are written out, to be added side by side and compared without branches.
    """
    lowest, best = np.inf, first * TILE
    for tile in range(first, stop):
        a, b, c, d = 0.0, 0.0, 0.0, 0.0
        for t in range(count):
            twice = 2 * np.float64(values[t, place])
            a += exact[tile, t, 0] * exact[tile, t, 0] - twice * exact[tile, t, 0]
            b += exact[tile, t, 1] * exact[tile, t, 1] - twice * exact[tile, t, 1]
            c += exact[tile, t, 2] * exact[tile, t, 2] - twice * exact[tile, t, 2]
            d += exact[tile, t, 3] * exact[tile, t, 3] - twice * exact[tile, t, 3]
        left, right = 0 if a <= b else 1, 2 if c <= d else 3
        low, high = min(a, b), min(c, d)
        lane, cost = left if low <= high else right, min(low, high)
        best = tile * TILE + lane if cost < lowest else best
        lowest = min(lowest, cost)
    return best


@numba.njit(**_OPTIONS)
def assign(blocks, grouped, values, positions, kept, member, order, codebook, result):
    """Nearest codeword, argmin_c ||w - c o bm||^2 (paper eq. 2), of the vectors in ``blocks``; of equals, the first.

    Parameters
    ----------
    blocks : int64 (blocks, 2), [first, stop) of sorted vectors, where ``grouped`` all of one group.
    grouped : costs have a term for each surviving weight; otherwise two for each element, w and bm.
    values, positions, kept, member : the sorted vectors, as in the module's text.
    order : int (NG,), the vector at each sorted place.
    codebook : float32 (k, d).
    result : int32 (NG,), written at the places of the vectors.
    """
    codewords, length = codebook.shape
    width = len(values)
    count = width if grouped else 2 * length
    panels, tiles = -(-count // 4), -(-codewords // TILE)
    longest = 0
    for block in range(len(blocks)):
        longest = max(longest, blocks[block, 1] - blocks[block, 0])
    longest = -(-longest // LANES) * LANES
    factors = np.zeros((tiles, panels, 4, TILE), np.float32)
    constant = np.full((tiles, TILE), np.float32(np.inf))
    exact = np.full((tiles, width, TILE), _NEVER)
    norms = np.empty(longest, np.float64)
    sums = np.empty((TILE, longest), np.float32)
    least, second = np.empty(longest, np.float32), np.empty(longest, np.float32)
    winner = np.empty(longest, np.int32)
    terms = np.zeros((panels, 4, longest), np.float32)
    largest, current = 0.0, -1
    if not grouped:
        for codeword in range(codewords):
            tile, lane = codeword // TILE, codeword % TILE
            norm = 0.0
            for position in range(length):
                value = codebook[codeword, position]
                factors[tile, position // 4, position % 4, lane] = -2 * value
                at = length + position
                factors[tile, at // 4, at % 4, lane] = value * value
                norm += np.float64(value) * np.float64(value)
            constant[tile, lane] = 0
            largest = max(largest, norm)
    for block in range(len(blocks)):
        begin, end = blocks[block, 0], blocks[block, 1]
        size = end - begin
        full = -(-size // LANES) * LANES
        if grouped:
            group = member[begin]
            if group != current:
                current, largest = group, 0.0
                for codeword in range(codewords):
                    tile, lane = codeword // TILE, codeword % TILE
                    norm = 0.0
                    for t in range(kept[group]):
                        value = codebook[codeword, positions[group, t]]
                        exact[tile, t, lane] = value
                        factors[tile, t // 4, t % 4, lane] = -2 * value
                        norm += np.float64(value) * np.float64(value)
                    for t in range(kept[group], width):
                        factors[tile, t // 4, t % 4, lane] = 0
                    constant[tile, lane] = norm
                    largest = max(largest, norm)
            for t in range(width):
                terms[t // 4, t % 4, :size] = values[t, begin:end]
        else:
            terms[:] = 0
            for row in range(size):
                group = member[begin + row]
                for t in range(kept[group]):
                    position = positions[group, t]
                    terms[position // 4, position % 4, row] = values[t, begin + row]
                    at = length + position
                    terms[at // 4, at % 4, row] = 1
        if panels == 1:
            _scan_panel(terms[0], factors[:, 0], constant, least[:full], second[:full], winner[:full])
        else:
            _scan(terms, factors, constant, sums, least[:full], second[:full], winner[:full])
        norms[:size] = 0
        for t in range(width):  # 0 where a vector has fewer
            for row in range(size):
                norms[row] += np.float64(values[t, begin + row]) * np.float64(values[t, begin + row])
        group, most = member[begin], 0.0
        for row in range(size):
            most = max(most, norms[row])
        magnitude = largest + 2 * np.sqrt(most * largest)
        bound = 2 * (count + 4) * (ROUNDOFF * magnitude + UNDERFLOW) if magnitude < OVERFLOW else np.inf
        for row in range(size):
            if not grouped and member[begin + row] != current:
                current = group = member[begin + row]
                for codeword in range(codewords):
                    for t in range(kept[group]):
                        exact[codeword // TILE, t, codeword % TILE] = codebook[codeword, positions[group, t]]
            clear = np.float64(second[row]) - np.float64(least[row]) > bound
            first = winner[row] if clear else 0
            stop = winner[row] + 1 if clear else tiles
            result[order[begin + row]] = _decide(values, begin + row, kept[group], exact, first, stop)


@numba.njit(**_OPTIONS)
def accumulate(begin, end, values, positions, kept, member, order, assignment, sums):
    """Add the weights of the sorted vectors from ``begin`` to before ``end``, and their number, to their codeword's
    ``sums`` float64 (k, d, 2), where the two stand side by side."""
    for place in range(begin, end):
        group, codeword = member[place], assignment[order[place]]
        for t in range(kept[group]):
            position = positions[group, t]
            sums[codeword, position, 0] += values[t, place]
            sums[codeword, position, 1] += 1


@numba.njit(**_OPTIONS)
def errors(begin, end, values, positions, kept, member, order, codebook, assignment, result):
    """||w - c o bm||^2 of the sorted vectors from ``begin`` to before ``end``, float64, at the vectors' places."""
    for place in range(begin, end):
        group, codeword = member[place], assignment[order[place]]
        squares = 0.0
        for t in range(kept[group]):
            difference = np.float64(values[t, place]) - np.float64(codebook[codeword, positions[group, t]])
            squares += difference * difference
        result[order[place]] = squares


@numba.njit(**_OPTIONS)
def lower(begin, end, values, positions, kept, member, codeword, distance):
    """Lower ``distance`` float64 (NG,) of sorted vectors to ||w - codeword o bm||^2 where that is less."""
    for place in range(begin, end):
        group = member[place]
        squares = 0.0
        for t in range(kept[group]):
            difference = np.float64(values[t, place]) - np.float64(codeword[positions[group, t]])
            squares += difference * difference
        distance[place] = min(distance[place], squares)
