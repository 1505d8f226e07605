"""Measure the range of every activation on real images."""

import torch

from golden.network import Calibration
from hdl.config import MvqError

__all__ = ["OBSERVERS", "calibrate"]

#: values of one batch that a percentile looks at, at most.
_SAMPLE = 1 << 20
#: bins of a histogram of magnitudes, of which more than half are in use.
_BINS = 4096
#: ranges that the search for the least squared error tries, as parts of the largest magnitude.
_CANDIDATES = torch.logspace(-3, 0, 301, dtype=torch.float64)
#: steps of int8 between 0 and the end of the range.
_STEPS = 127
_PERCENTILE = 99.99


class _MinMax:
    """The largest magnitude."""

    def __init__(self, percentile):
        self.largest = 0.0

    def add(self, magnitude):
        self.largest = max(self.largest, float(magnitude.max()))

    def range(self):
        return self.largest


class _Percentile:
    """The mean over batches of a percentile of the magnitudes."""

    def __init__(self, percentile):
        self.percentile, self.total, self.batches = percentile, 0.0, 0

    def add(self, magnitude):
        flat = magnitude.flatten()
        flat = flat[:: -(-len(flat) // _SAMPLE)]
        rank = max(1, min(len(flat), round(self.percentile / 100 * len(flat))))
        self.total += float(flat.kthvalue(rank).values)
        self.batches += 1

    def range(self):
        return self.total / self.batches


class _LeastSquares:
    """The range with the least squared error of the rounded and clamped values, from a histogram that grows."""

    def __init__(self, percentile):
        self.counts, self.end, self.largest = torch.zeros(_BINS, dtype=torch.float64), 0.0, 0.0

    def add(self, magnitude):
        largest = float(magnitude.max())
        self.largest = max(self.largest, largest)
        self.end = self.end or largest
        if not self.end:
            return
        while self.end < largest:  # twice the range: two bins become one
            merged = self.counts.view(-1, 2).sum(dim=1)
            self.counts, self.end = torch.cat((merged, torch.zeros_like(merged))), 2 * self.end
        self.counts += torch.histc(magnitude.float(), _BINS, 0.0, self.end).double()

    def range(self):
        if not self.end:
            return 0.0
        values = (torch.arange(_BINS, dtype=torch.float64) + 0.5) * self.end / _BINS
        values[0] = 0.0  # most of it is the zeros behind a ReLU
        scale = (self.largest * _CANDIDATES / _STEPS)[:, None]
        rounded = torch.clamp(torch.round(values / scale), max=_STEPS) * scale
        error = ((rounded - values) ** 2 * self.counts).sum(dim=1)
        return float(self.largest * _CANDIDATES[error.argmin()])


OBSERVERS = {"minmax": _MinMax, "percentile": _Percentile, "mse": _LeastSquares}


@torch.no_grad()
def calibrate(network, images, percentile=None, batch=64, progress=None, *, observer=None):
    """The range of each node's value, after its activation.

    Parameters
    ----------
    network : :class:`algo.network.CompressedNetwork`; runs in evaluation mode.
    images : float32 (N, C, H, W), drawn from what the network will see.
    percentile : of the magnitudes, above 50 and at most 100; 99.99 when None. Of the observer ``percentile`` alone.
    batch : images that run at once.
    progress : called with ("calibrate", images done, images).
    observer : ``minmax``, the largest magnitude; ``percentile``, the mean over batches of a percentile of the
        magnitudes; or ``mse``, the range whose 8-bit steps have the least squared error. When None, ``percentile``
        where a percentile is given, and ``minmax`` otherwise.

    Returns
    -------
    golden.network.Calibration

    Raises
    ------
    MvqError : no images, NaN or infinite values, or an illegal observer or percentile.
    """
    observer = observer or ("minmax" if percentile is None else "percentile")
    if observer not in OBSERVERS:
        raise MvqError(f"observer = {observer!r}: must be one of {', '.join(OBSERVERS)}")
    if percentile is not None and observer != "percentile":
        raise MvqError(f"percentile = {percentile}: only the observer 'percentile' takes one, not {observer!r}")
    if percentile is not None and not 50 < percentile <= 100:
        raise MvqError(f"percentile = {percentile}: must be above 50 and at most 100; the nearest legal value is 100")
    if not len(images):
        raise MvqError("calibration needs at least one image")
    found, done = {}, 0

    def observe(node, value):
        magnitude = value.detach().abs()
        if not torch.isfinite(magnitude).all():
            raise MvqError(f"node {node.name!r} has NaN or infinite values on the calibration images")
        if node.name not in found:
            found[node.name] = OBSERVERS[observer](percentile or _PERCENTILE)
        found[node.name].add(magnitude)

    training = network.training
    network.eval()
    try:
        for part in images.split(batch):
            network(part, observe)
            done += len(part)
            if progress:
                progress("calibrate", done, len(images))
    finally:
        network.train(training)
    return Calibration({name: each.range() for name, each in found.items()})
