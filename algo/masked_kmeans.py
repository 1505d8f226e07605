"""Masked k-means (paper section 4.4, eq. 1-4): clustering in which only the weights that survived pruning count.

The objective is sum_j ||w_j - c_a(j) o bm_j||^2. As w_j is masked, the distance of a vector to a codeword is, up to
||w_j||^2,

    cost(j, c) = bm_j . (c o c) - 2 w_j . c

and vectors with the same mask share the terms that count. So the vectors are sorted by mask once; each mask then needs
one small matrix product with n + 1 instead of 2d terms, in batches whose costs stay in the cache. The product is in
float32; where the two least costs are closer than its error bound, the vector is decided in float64, so the assignment
is the exact minimum.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from hdl.config import MvqError

__all__ = ["Clustering", "MaskedVectors", "masked_kmeans"]

#: costs in one batch: 1024 rows of 512 codewords are 2 MiB.
_BLOCK_COSTS = 1024 * 512
#: vectors a mask must have on average for the sorted layout to pay.
_VECTORS_PER_MASK = 24
#: vectors that are decided in float64 at once.
_EXACT_ROWS = 2048
#: unit roundoff of float32.
_ROUNDOFF = 2.0**-24


@dataclass(frozen=True)
class Clustering:
    """Result of :func:`masked_kmeans`.

    Parameters
    ----------
    codebook : float32 (k, d).
    assignment : int64 (NG,), the codeword of each vector.
    sse : sum_j ||w_j - c_a(j) o bm_j||^2, eq. 1.
    changed : assignments that changed, for each iteration.
    reseeded : codewords that had lost every vector and were given a new one, over all iterations.
    """

    codebook: torch.Tensor
    assignment: torch.Tensor
    sse: float
    changed: tuple[int, ...]
    reseeded: int


class MaskedVectors:
    """Vectors and masks, laid out for fast exact assignment and update.

    Parameters
    ----------
    vectors : float (NG, d); elements outside the mask are ignored.
    masks : bool (NG, d).

    Raises
    ------
    MvqError : shapes that do not fit, no vectors, or a weight that is NaN or infinite.
    """

    def __init__(self, vectors, masks):
        vectors = np.asarray(vectors, dtype=np.float32)
        masks = np.asarray(masks, dtype=bool)
        if vectors.ndim != 2 or masks.shape != vectors.shape:
            raise MvqError(f"vectors {vectors.shape} and masks {masks.shape} must have the same shape (NG, d)")
        if not vectors.size:
            raise MvqError("there are no vectors to cluster")
        if not np.isfinite(vectors).all():
            raise MvqError("weights to cluster must be finite, but some are NaN or infinite")
        self.count, self.length = vectors.shape
        self._masks = masks
        self._values = np.where(masks, vectors, np.float32(0))
        self._norms = np.sqrt(np.einsum("ij,ij->i", self._values, self._values, dtype=np.float64))
        kept_row, kept_position = np.nonzero(masks)
        self._kept_row, self._kept_position = kept_row, kept_position
        self._kept_value = self._values[kept_row, kept_position].astype(np.float64)
        first, member = _distinct_rows(masks)
        if self.count >= _VECTORS_PER_MASK * len(first):
            self._group_masks, self._member = masks[first], member
            most = max(1, int(self._group_masks.sum(axis=1).max()))
            # the positions that survive, and, where fewer do, others, whose values are 0
            self._positions = np.argsort(~self._group_masks, axis=1, kind="stable")[:, :most]
        else:
            self._group_masks, self._member, self._positions = None, np.zeros(self.count, np.int64), None
        self._rows, self._layout = None, None

    def _factors(self, groups, codebook):
        """What to multiply :meth:`_terms` with, to get the costs of the vectors in each of ``groups``.

        Returns
        -------
        (factors, largest) : float32 (groups, terms, k), and for each group its largest masked codeword squared.
        """
        square = codebook.T.astype(np.float64) ** 2
        if self._group_masks is None:
            return np.concatenate([-2 * codebook.T, square.astype(np.float32)])[None], square.sum(axis=0).max(
                keepdims=True
            )
        constant = (self._group_masks.astype(np.float64) @ square).astype(np.float32)
        factors = np.empty((len(groups), self._positions.shape[1] + 1, len(codebook)), np.float32)
        factors[:, :-1] = (-2 * codebook.T)[self._positions[groups]]
        factors[:, -1] = constant[groups]
        return factors, constant.max(axis=1).astype(np.float64)

    def _terms(self, vectors):
        """Float32 (len(vectors), terms): surviving weights and 1, or [w, bm] when all vectors are in one group."""
        if self._group_masks is None:
            return np.concatenate([self._values[vectors], self._masks[vectors].astype(np.float32)], axis=1)
        values = np.take_along_axis(self._values[vectors], self._positions[self._member[vectors]], axis=1)
        return np.concatenate([values, np.ones((len(vectors), 1), np.float32)], axis=1)

    def _lay_out(self, rows):
        """Batches of blocks of vectors with the same mask: in a batch all as long as its longest, ``rows`` at most.

        Returns
        -------
        (slots, terms, groups, batches) : the vector in each row of the layout (a block's last is repeated to fill
        it), its terms, the groups in the order of their last blocks, so that those of a batch follow each other, and
        for each batch (first row, blocks, rows in a block, place of its first group).
        """
        if self._rows == rows:
            return self._layout
        order = np.argsort(self._member, kind="stable")
        blocks, start = [], 0
        for group, stop in enumerate(np.cumsum(np.bincount(self._member)).tolist()):
            blocks += [(group, order[first : min(first + rows, stop)]) for first in range(start, stop, rows)]
            start = stop
        blocks.sort(key=lambda block: -len(block[1]))
        # a group may have several blocks of all the rows, each a batch of its own, but only one that is shorter
        place = {group: i for i, group in enumerate(reversed(dict.fromkeys(group for group, _ in reversed(blocks))))}
        slots, batches, block, begin = [], [], 0, 0
        while block < len(blocks):
            length = len(blocks[block][1])
            batch = blocks[block : block + rows // length]
            for _, vectors in batch:
                slots += [vectors, np.repeat(vectors[-1:], length - len(vectors))]
            batches.append((begin, len(batch), length, place[batch[0][0]]))
            begin, block = begin + len(batch) * length, block + len(batch)
        slots = np.concatenate(slots)
        self._rows, self._layout = rows, (slots, torch.from_numpy(self._terms(slots)), np.array(list(place)), batches)
        return self._layout

    def assign(self, codebook):
        """The nearest codeword of each vector, argmin_c ||w_j - c o bm_j||^2 (eq. 2); of equals, the first.

        Parameters
        ----------
        codebook : float32 (k, d).

        Returns
        -------
        int64 (NG,).
        """
        codebook = np.ascontiguousarray(codebook, dtype=np.float32)
        count = len(codebook)
        if count == 1:
            return np.zeros(self.count, np.int64)
        rows = max(1, min(_BLOCK_COSTS // count, self.count))
        slots, terms, groups, batches = self._lay_out(rows)
        factors, largest = self._factors(groups, codebook)
        factors = torch.from_numpy(factors)
        nearest, margin = np.empty(len(slots), np.int64), np.empty(len(slots), np.float32)

        def work(part):
            space = torch.empty(rows, count)
            costs, offsets = space.numpy(), np.arange(rows) * count
            flat = costs.reshape(-1)
            for begin, blocks, length, first in part:
                used = blocks * length
                end = begin + used
                product = space[:used].view(blocks, length, count)
                left = terms[begin:end].view(blocks, length, -1)
                torch.bmm(left, factors[first : first + blocks], out=product)
                least = costs[:used].argmin(axis=1)
                nearest[begin:end] = least
                least += offsets[:used]
                lowest = flat[least]
                flat[least] = np.inf
                least = costs[:used].argmin(axis=1)
                least += offsets[:used]
                np.subtract(flat[least], lowest, out=margin[begin:end])

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the products are small: one thread each, and several of them at once
        try:
            if threads == 1:
                work(batches)
            else:
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(work, (batches[i::threads] for i in range(threads))))
        finally:
            torch.set_num_threads(threads)
        best, gap = np.empty(self.count, np.int64), np.empty(self.count, np.float32)
        best[slots], gap[slots] = nearest, margin
        self._decide(codebook, best, gap, largest, terms.shape[1])
        return best

    def _decide(self, codebook, best, gap, largest, terms):
        """Replace in ``best`` what float32 cannot tell apart by the minimum in float64."""
        bound = self._norms * (2 * np.sqrt(largest))[self._member]
        bound += largest[self._member]
        bound *= 2 * (terms + 2) * _ROUNDOFF
        (close,) = np.nonzero(gap <= bound)
        exact = codebook.astype(np.float64)
        square = exact.T**2
        for start in range(0, len(close), _EXACT_ROWS):
            rows = close[start : start + _EXACT_ROWS]
            costs = self._masks[rows].astype(np.float64) @ square - 2 * (
                self._values[rows].astype(np.float64) @ exact.T
            )
            best[rows] = costs.argmin(axis=1)

    def _elements(self, assignment):
        """Flat index into the codebook of every weight that survives."""
        return assignment[self._kept_row] * self.length + self._kept_position

    def update(self, codebook, assignment):
        """Mean, element by element, of the surviving weights of each cluster (eq. 3 and 4).

        An element that no surviving weight uses keeps its value in ``codebook``; so does an empty cluster.

        Returns
        -------
        float32 (k, d).
        """
        elements = self._elements(assignment)
        total = np.bincount(elements, self._kept_value, codebook.size)
        uses = np.bincount(elements, minlength=codebook.size)
        mean = np.where(uses > 0, total / np.maximum(uses, 1), codebook.reshape(-1))
        return mean.reshape(codebook.shape).astype(np.float32)

    def errors(self, codebook, assignment):
        """Float64 (NG,): ||w_j - c_a(j) o bm_j||^2 of each vector."""
        difference = self._kept_value - codebook.reshape(-1)[self._elements(assignment)]
        return np.bincount(self._kept_row, difference * difference, self.count)

    def initial(self, codewords, seed):
        """Float32 (k, d): masked vectors drawn at random, distinct as far as there are enough (paper section 3)."""
        order = np.random.default_rng(seed).permutation(self.count)
        drawn = min(2 * codewords, self.count)
        while True:
            first, _ = _distinct_rows(self._values[order[:drawn]])
            if len(first) >= codewords or drawn == self.count:
                break
            drawn = min(2 * drawn, self.count)
        chosen = np.sort(first)[:codewords]
        if len(chosen) < codewords:
            chosen = np.concatenate([chosen, np.setdiff1d(np.arange(self.count), chosen)[: codewords - len(chosen)]])
        return self._values[order[chosen]]

    def reseed(self, codebook, assignment):
        """Give each empty codeword the vector that fits worst; return how many were given one.

        The surviving weights of the vector replace those of the codeword it had; vectors that fit exactly are left
        alone. ``codebook`` is changed in place.
        """
        (empty,) = np.nonzero(np.bincount(assignment, minlength=len(codebook)) == 0)
        if not len(empty):
            return 0
        errors = self.errors(codebook, assignment)
        worst = np.argsort(-errors, kind="stable")[: len(empty)]
        worst = worst[errors[worst] > 0]
        codebook[empty[: len(worst)]] = np.where(self._masks[worst], self._values[worst], codebook[assignment[worst]])
        return len(worst)


def _distinct_rows(array):
    """Index of the first of each distinct row, and for every row which of them it equals."""
    data = np.packbits(array, axis=1) if array.dtype == bool else np.ascontiguousarray(array + 0.0).view(np.uint8)
    words = np.zeros((len(data), -(-data.shape[1] // 8) * 8), np.uint8)
    words[:, : data.shape[1]] = data
    words = words.view(np.uint64)
    _, first, member = np.unique(
        words if words.shape[1] > 1 else words[:, 0], axis=0, return_index=True, return_inverse=True
    )
    return first, member.reshape(-1)


def masked_kmeans(vectors, masks, codewords, *, seed=0, iterations=100, tolerance=1e-3, progress=None):
    """Cluster masked subvectors (paper section 4.4).

    Parameters
    ----------
    vectors : float (NG, d), torch or numpy; elements outside the mask are ignored.
    masks : bool (NG, d).
    codewords : k, at most NG.
    seed : draws the initial codewords; the same seed gives the same result.
    iterations : at most this many.
    tolerance : stop when fewer than this part of the assignments changed (0.1 % in the paper's section 3).
    progress : called with (iterations done, iterations at most).

    Returns
    -------
    Clustering.

    Raises
    ------
    MvqError : more codewords than vectors, or vectors that cannot be clustered.
    """
    data = MaskedVectors(vectors, masks)
    if not 1 <= codewords <= data.count:
        raise MvqError(
            f"codewords = {codewords}: must be 1 to the number of vectors, {data.count}; "
            f"the nearest legal value is {min(max(codewords, 1), data.count)}"
        )
    if iterations < 1:
        raise MvqError(f"iterations = {iterations}: must be at least 1")
    codebook = data.initial(codewords, seed)
    assignment = np.full(data.count, -1)
    changed, reseeded = [], 0
    for iteration in range(iterations):
        previous, assignment = assignment, data.assign(codebook)
        changed.append(int((assignment != previous).sum()))
        codebook = data.update(codebook, assignment)
        if progress:
            progress(iteration + 1, iterations)
        if changed[-1] < tolerance * data.count or changed[-1] == 0:
            break
        if iteration + 1 < iterations:
            reseeded += data.reseed(codebook, assignment)
    if progress:
        progress(iterations, iterations)
    return Clustering(
        codebook=torch.from_numpy(codebook),
        assignment=torch.from_numpy(assignment),
        sse=float(data.errors(codebook, assignment).sum()),
        changed=tuple(changed),
        reseeded=reseeded,
    )
