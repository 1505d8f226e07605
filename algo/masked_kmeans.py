"""Masked k-means (paper section 4.4, eq. 1-4): clustering in which only the weights that survived pruning count.

The objective is sum_j ||w_j - c_a(j) o bm_j||^2. As w_j is masked, the distance of a vector to a codeword is, up to
||w_j||^2,

    cost(j, c) = bm_j . (c o c) - 2 w_j . c

and vectors with the same mask share the terms that count. So the vectors are sorted by mask once; each mask then needs
n + 1 instead of 2d terms (:mod:`algo.nearest`). Costs are compared in float32; where the two least are closer than the
error bound, the vector is decided in float64, so the assignment is the exact minimum.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from algo import nearest
from algo.annealing import anneal
from hdl.config import MvqError

__all__ = ["INITIAL", "Clustering", "MaskedVectors", "masked_kmeans"]

#: ways to choose the first codewords.
INITIAL = ("random", "k-means++")
#: vectors that are compared at once, by type of device.
_CHUNK = {"cpu": 512, "cuda": 1 << 17}
#: vectors a mask must have on average for the sorted layout to pay.
_VECTORS_PER_MASK = 16
#: sums that are made apart and added in order, so that the result does not depend on the number of threads.
_PARTS = 8


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
    device : where vectors are compared, as torch names it; None is the compiled loop on the CPU. The result is the same
        to the bit.
    chunk : vectors that are compared at once, by each thread; bounds the memory that costs take. None is what suits the
        device.

    Raises
    ------
    MvqError : shapes that do not fit, no vectors, a weight that is NaN or infinite, or no such device.
    """

    def __init__(self, vectors, masks, device=None, chunk=None):
        vectors = np.asarray(vectors, dtype=np.float32)
        masks = np.asarray(masks, dtype=bool)
        if vectors.ndim != 2 or masks.shape != vectors.shape:
            raise MvqError(f"vectors {vectors.shape} and masks {masks.shape} must have the same shape (NG, d)")
        if not vectors.size:
            raise MvqError("there are no vectors to cluster")
        if not np.isfinite(vectors).all():
            raise MvqError("weights to cluster must be finite, but some are NaN or infinite")
        if chunk is not None and chunk < 1:
            raise MvqError(f"chunk = {chunk}: must be at least 1; the nearest legal value is 1")
        self.count, self.length = vectors.shape
        self.device = None if device is None else _device(device)
        self._chunk = chunk or _CHUNK.get(self.device.type if self.device else "cpu", _CHUNK["cpu"])
        self._masks = masks
        #: weights that survive; at least 1, to divide by.
        self.weights = max(1, int(np.count_nonzero(masks)))
        self._values = np.where(masks, vectors, np.float32(0))
        first, member = _distinct_rows(masks)
        order = np.argsort(member, kind="stable")
        kept = masks[first].sum(axis=1)
        positions = np.argsort(~masks[first], axis=1, kind="stable")[:, : max(1, kept.max())]
        member = member[order]
        values = np.empty((positions.shape[1], self.count), np.float32)
        for term, row in enumerate(values):
            row[:] = self._values[order, positions[member, term]]
        self._order = order.astype(np.int32 if self.count < 1 << 31 else np.int64)
        #: what the compiled loops call values, positions, kept and member.
        self._sorted = values, positions.astype(np.int32), kept.astype(np.int32), member.astype(np.int32)
        self._grouped = self.count >= _VECTORS_PER_MASK * len(first)
        self._blocks = self._cut(np.bincount(member) if self._grouped else np.array([self.count]))
        self._on_device = None

    def _cut(self, lengths):
        """Int64 (blocks, 2): [first, stop) of every chunk of consecutive runs of ``lengths`` vectors."""
        stops = np.cumsum(lengths)
        counts = -(-lengths // self._chunk)
        run = np.repeat(np.arange(len(lengths)), counts)
        place = np.arange(len(run)) - np.repeat(np.cumsum(counts) - counts, counts)
        begin = (stops - lengths)[run] + place * self._chunk
        return np.stack([begin, np.minimum(begin + self._chunk, stops[run])], axis=1)

    def _parts(self):
        """[first, stop) of _PARTS nearly equal parts of the sorted vectors."""
        edges = np.linspace(0, self.count, _PARTS + 1).astype(np.int64).tolist()
        return list(pairwise(edges))

    def assign(self, codebook):
        """The nearest codeword of each vector, argmin_c ||w_j - c o bm_j||^2 (eq. 2); of equals, the first.

        Parameters
        ----------
        codebook : float32 (k, d).

        Returns
        -------
        int32 (NG,).
        """
        codebook = np.ascontiguousarray(codebook, dtype=np.float32)
        if self.device is not None:
            precision = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")  # others round more than the bound allows
            try:
                return self._assign_on_device(codebook)
            finally:
                torch.set_float32_matmul_precision(precision)
        result = np.empty(self.count, np.int32)
        threads = torch.get_num_threads()
        # about as many vectors each, and several parts a thread, as another program may slow one of them
        goals = np.linspace(0, self.count, 4 * threads + 1)[1:-1] if threads > 1 else []
        parts = np.split(self._blocks, np.searchsorted(self._blocks[:, 0], goals))
        self._share(
            lambda part: nearest.assign(part, self._grouped, *self._sorted, self._order, codebook, result), parts
        )
        return result

    @staticmethod
    def _share(work, parts):
        """``work(part)`` for all parts, on as many threads as torch has."""
        threads = torch.get_num_threads()
        if threads == 1:
            for part in parts:
                work(part)
            return
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, parts))

    def _assign_on_device(self, codebook):
        """:meth:`assign` with torch: the two least costs of all codewords in float32, close ones again in float64."""
        if self._on_device is None:
            self._on_device = tuple(torch.from_numpy(array).to(self.device) for array in (self._values, self._masks))
        values, masks = self._on_device
        book = torch.from_numpy(codebook).to(self.device)
        exact = book.double()
        squares = exact**2
        largest = float(squares.sum(dim=1).max())
        factors = torch.cat([-2 * book, squares.float()], dim=1).T.contiguous()
        result = torch.zeros(self.count, dtype=torch.int32)
        for begin in range(0, self.count, self._chunk):
            part = slice(begin, begin + self._chunk)
            vectors, mask = values[part], masks[part]
            costs = torch.cat([vectors, mask.float()], dim=1) @ factors
            least, best = costs.topk(min(2, len(book)), dim=1, largest=False)
            gap = (least[:, -1] - least[:, 0]).double()
            norm = (vectors.double() ** 2).sum(dim=1)
            magnitude = largest + 2 * torch.sqrt(norm * largest)
            bound = 2 * (factors.shape[0] + 4) * (nearest.ROUNDOFF * magnitude + nearest.UNDERFLOW)
            close = (~((gap > bound) & (magnitude < nearest.OVERFLOW))).nonzero()[:, 0]
            best = best[:, 0]
            again = mask[close].double() @ squares.T - 2 * (vectors[close].double() @ exact.T)
            best[close] = again.argmin(dim=1)
            result[part] = best.int().cpu()
        return result.numpy()

    def update(self, codebook, assignment):
        """Mean, element by element, of the surviving weights of each cluster (eq. 3 and 4).

        An element that no surviving weight uses keeps its value in ``codebook``; so does an empty cluster.

        Returns
        -------
        float32 (k, d).
        """
        parts = self._parts()
        sums = np.zeros((len(parts), *codebook.shape, 2))

        def work(part):
            nearest.accumulate(*parts[part], *self._sorted, self._order, assignment, sums[part])

        self._share(work, range(len(parts)))
        total, uses = np.moveaxis(sums.sum(axis=0), 2, 0)
        return np.where(uses > 0, total / np.maximum(uses, 1), codebook).astype(np.float32)

    def errors(self, codebook, assignment):
        """Float64 (NG,): ||w_j - c_a(j) o bm_j||^2 of each vector."""
        result = np.empty(self.count)
        self._share(
            lambda part: nearest.errors(*part, *self._sorted, self._order, codebook, assignment, result), self._parts()
        )
        return result

    def initial(self, codewords, seed, method="random"):
        """First codewords: masked vectors, distinct as far as there are enough.

        Parameters
        ----------
        codewords : k.
        seed : draws them.
        method : ``random`` (paper section 3), or ``k-means++``, where the chance of a vector is its squared masked
            distance ||w - c o bm||^2 to the nearest codeword that is already drawn.

        Returns
        -------
        float32 (k, d).
        """
        generator = np.random.default_rng(seed)
        return (self._random if method == "random" else self._plus_plus)(codewords, generator)

    def _random(self, codewords, generator):
        order = generator.permutation(self.count)
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

    def _plus_plus(self, codewords, generator):
        distance, parts = np.full(self.count, np.inf), self._parts()
        place, chosen = int(generator.integers(self.count)), []
        for _ in range(codewords):
            chosen.append(self._order[place])
            codeword = self._values[chosen[-1]]
            self._share(lambda part: nearest.lower(*part, *self._sorted, codeword, distance), parts)  # noqa: B023
            chance = np.cumsum(distance)
            if not chance[-1] > 0:  # every vector is a codeword already
                break
            place = min(int(np.searchsorted(chance, generator.random() * chance[-1], side="right")), self.count - 1)
        rest = np.setdiff1d(np.arange(self.count), chosen)[: codewords - len(chosen)]
        return self._values[np.concatenate([np.array(chosen, np.int64), rest])]

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


def _device(name):
    """``name`` as a torch device that is there, or MvqError."""
    try:
        torch.zeros(1, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise MvqError(f"device = {str(name)!r}: torch cannot use it here; the nearest legal value is 'cpu'") from error


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


def _lloyd(data, codebook, iterations, tolerance, progress):
    """Assign and update from ``codebook`` on until few assignments change."""
    assignment = np.full(data.count, -1, np.int32)
    changed, reseeded = [], 0
    for iteration in range(iterations):
        previous, assignment = assignment, data.assign(codebook)
        changed.append(int((assignment != previous).sum()))
        codebook = data.update(codebook, assignment)
        progress(iteration + 1)
        if changed[-1] < tolerance * data.count or changed[-1] == 0:
            break
        if iteration + 1 < iterations:
            reseeded += data.reseed(codebook, assignment)
    progress(iterations)
    return Clustering(
        codebook=torch.from_numpy(codebook),
        assignment=torch.from_numpy(assignment.astype(np.int64)),
        sse=float(data.errors(codebook, assignment).sum()),
        changed=tuple(changed),
        reseeded=reseeded,
    )


def masked_kmeans(
    vectors,
    masks,
    codewords,
    *,
    seed=0,
    iterations=100,
    tolerance=1e-3,
    initial="random",
    restarts=1,
    annealing=0,
    device=None,
    chunk=None,
    progress=None,
):
    """Cluster masked subvectors (paper section 4.4).

    Parameters
    ----------
    vectors : float (NG, d), torch or numpy; elements outside the mask are ignored.
    masks : bool (NG, d).
    codewords : k, at most NG.
    seed : draws the initial codewords; the same seed gives the same result.
    iterations : at most this many.
    tolerance : stop when fewer than this part of the assignments changed (0.1 % in the paper's section 3).
    initial : how the first codewords are chosen, one of :data:`INITIAL`.
    restarts : runs with the seeds ``seed``, ``seed + 1``, ...; the one with the least error is the result.
    annealing : iterations with noise on the codewords (:mod:`algo.annealing`) before the others; the paper has none.
    device, chunk : as for :class:`MaskedVectors`; the result does not depend on them.
    progress : called with (iterations done, iterations at most), over all restarts.

    Returns
    -------
    Clustering.

    Raises
    ------
    MvqError : more codewords than vectors, vectors that cannot be clustered, or a setting that cannot be.
    """
    data = MaskedVectors(vectors, masks, device, chunk)
    if not 1 <= codewords <= data.count:
        raise MvqError(
            f"codewords = {codewords}: must be 1 to the number of vectors, {data.count}; "
            f"the nearest legal value is {min(max(codewords, 1), data.count)}"
        )
    for name, value, least in (("iterations", iterations, 1), ("restarts", restarts, 1), ("annealing", annealing, 0)):
        if value < least:
            raise MvqError(f"{name} = {value}: must be at least {least}; the nearest legal value is {least}")
    if initial not in INITIAL:
        raise MvqError(f"initial = {initial!r}: must be one of {', '.join(INITIAL)}")
    runs, each = [], annealing + iterations
    for run in range(restarts):

        def step(done, before=run * each):
            if progress:
                progress(before + done, restarts * each)

        codebook = anneal(data, data.initial(codewords, seed + run, initial), annealing, seed + run, step)
        runs.append(_lloyd(data, codebook, iterations, tolerance, lambda done, step=step: step(annealing + done)))
    return min(runs, key=lambda result: result.sse)
