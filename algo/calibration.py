"""Measure the range of every activation on real images."""

import torch

from golden.network import Calibration
from hdl.config import MvqError

__all__ = ["calibrate"]

#: values of one batch that a percentile looks at, at most.
_SAMPLE = 1 << 20


@torch.no_grad()
def calibrate(network, images, percentile=None, batch=64, progress=None):
    """The largest magnitude of each node's value, after its activation.

    Parameters
    ----------
    network : :class:`algo.network.CompressedNetwork`; runs in evaluation mode.
    images : float32 (N, C, H, W), drawn from what the network will see.
    percentile : above 50 and at most 100; where given, the mean over batches of this percentile of the magnitudes
    instead of the largest.
    batch : images that run at once.
    progress : called with ("calibrate", images done, images).

    Returns
    -------
    golden.network.Calibration

    Raises
    ------
    MvqError : no images, NaN or infinite values, or an illegal percentile.
    """
    if percentile is not None and not 50 < percentile <= 100:
        raise MvqError(f"percentile = {percentile}: must be above 50 and at most 100; the nearest legal value is 100")
    if not len(images):
        raise MvqError("calibration needs at least one image")
    amax, batches = {}, 0

    def observe(node, value):
        magnitude = value.detach().abs()
        if not torch.isfinite(magnitude).all():
            raise MvqError(f"node {node.name!r} has NaN or infinite values on the calibration images")
        if percentile is None:
            amax[node.name] = max(amax.get(node.name, 0.0), float(magnitude.max()))
            return
        flat = magnitude.flatten()
        flat = flat[:: -(-len(flat) // _SAMPLE)]
        rank = max(1, min(len(flat), round(percentile / 100 * len(flat))))
        amax[node.name] = amax.get(node.name, 0.0) + float(flat.kthvalue(rank).values)

    training = network.training
    network.eval()
    try:
        for part in images.split(batch):
            network(part, observe)
            batches += 1
            if progress:
                progress("calibrate", min(batches * batch, len(images)), len(images))
    finally:
        network.train(training)
    return Calibration(amax if percentile is None else {name: value / batches for name, value in amax.items()})
