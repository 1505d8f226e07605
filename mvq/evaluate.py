"""``mvq evaluate``: how often the float network, the compressed one and its integers are right."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from algo.integer import TorchIntegerNetwork
from algo.network import CompressedNetwork
from algo.sources import load_checkpoint, load_network
from golden.network import Calibration, quantise
from hdl.config import MvqError
from mvq.compress import CALIBRATION

__all__ = ["Score", "evaluate", "load_networks"]

#: top-5 is worth a column above so many classes.
_FEW_CLASSES = 10


@dataclass
class Score:
    """What a network got right.

    Parameters
    ----------
    network : what it is. ``images`` : how many it saw.
    right : images whose largest output is their label. ``among_five`` : whose label is among the five largest; None
        where there are too few classes for that to mean anything.
    """

    network: str
    images: int = 0
    right: int = 0
    among_five: int | None = None

    @property
    def top1(self):
        """Part that is right."""
        return self.right / self.images

    @property
    def top5(self):
        """Part whose label is among the five largest, or None."""
        return None if self.among_five is None else self.among_five / self.images

    @property
    def standard_error(self):
        """Of ``top1``, as a part of 1: sqrt(p (1 - p) / n)."""
        return math.sqrt(self.top1 * (1 - self.top1) / self.images)

    def to_dict(self):
        """JSON-ready form."""
        return {**vars(self), "top1": self.top1, "top5": self.top5, "standard_error": self.standard_error}

    def count(self, outputs, labels):
        """Add a batch: outputs (n, classes), labels (n,)."""
        self.images += len(labels)
        self.right += int((outputs.argmax(dim=1) == labels).sum())
        if self.among_five is not None:
            self.among_five += int((outputs.topk(5, dim=1).indices == labels[:, None]).sum())


def load_networks(path, network=None, weights=None, integers=False, calibration=None):
    """Networks to compare.

    Parameters
    ----------
    path : folder or zip of a checkpoint.
    network, weights : the float one, as for :func:`algo.sources.load_network`; none when None.
    integers : with the integer network that the accelerator computes.
    calibration : file; calibration.json in the checkpoint's folder when None.

    Returns
    -------
    (dict, tuple, int) : name -> callable from float32 (n, C, H, W) to outputs (n, ...); input shape; classes.

    Raises
    ------
    MvqError : a file is missing or does not fit.
    """
    checkpoint, networks = load_checkpoint(path), {}
    graph = checkpoint.graph
    shape, classes = tuple(graph.input.attrs["shape"]), math.prod(graph.shapes()[graph.output])
    if network is not None:
        networks["float"], _ = load_network(network, weights=weights, input_shape=shape)
        _try_out(network, networks["float"], shape)
    elif weights is not None:
        raise MvqError(f"--weights = {weights}: are those of a float network; give it with --network")
    networks["compressed"] = CompressedNetwork.from_checkpoint(checkpoint)
    if integers:
        file = calibration or Path(path) / CALIBRATION
        if calibration is None and not file.is_file():
            raise MvqError(f"{path}: has no {CALIBRATION}, which integers need; compress with --calibrate, or name one")
        networks["integers"] = TorchIntegerNetwork(quantise(checkpoint, Calibration.load(file)))
    return networks, shape, classes


@torch.no_grad()
def _try_out(spec, module, shape):
    """Raise MvqError unless ``module`` takes images of ``shape`` and gives a tensor."""
    try:
        output = module(torch.zeros(1, *shape))
    except Exception as error:  # of any kind: it runs the user's code
        taken, reason = " x ".join(map(str, shape)), " ".join(str(error).split())
        raise MvqError(f"{spec}: does not take {taken} images ({reason})") from error
    if not isinstance(output, torch.Tensor):
        raise MvqError(f"{spec}: gives a {type(output).__name__}, not one tensor of outputs")


@torch.no_grad()
def evaluate(networks, dataset, classes, batch=100, progress=None):
    """Classify every image with every network.

    Parameters
    ----------
    networks : name -> callable, as :func:`load_networks` gives them.
    dataset : :class:`algo.datasets.Dataset` with labels below ``classes``.
    batch : images at a time.
    progress : called with ("evaluate", images done, images).

    Returns
    -------
    list of Score, in the order of ``networks``.

    Raises
    ------
    MvqError : a network gives another number of outputs, or NaN.
    """
    scores = [Score(name, among_five=0 if classes > _FEW_CLASSES else None) for name in networks]
    done = 0
    for images, labels in zip(dataset.images.split(batch), dataset.labels.split(batch), strict=True):
        for score, network in zip(scores, networks.values(), strict=True):
            outputs = network(images).flatten(1)
            if outputs.shape != (len(labels), classes):
                raise MvqError(
                    f"the {score.network} network gives {outputs.shape[1]} outputs, but the checkpoint has {classes}"
                )
            if not torch.isfinite(outputs).all():
                raise MvqError(f"the {score.network} network gives NaN or infinity for one of images {done} on")
            score.count(outputs, labels)
        done += len(labels)
        if progress:
            progress("evaluate", done, len(dataset))
    return scores
