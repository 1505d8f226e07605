"""Train with the activations that the accelerator has: int8 exactly where :mod:`golden.network` rounds."""

import math

import torch
from torch import nn

from golden.network import KEEPS_SCALE, WEIGHTED, Calibration
from hdl.config import MvqError

__all__ = ["QuantisedActivations", "trained_calibration"]

#: step of an activation behind a relu6 whose 127 is 6, the largest that :class:`golden.network.Calibration` gives.
_LARGEST_RELU6 = 6 / 127


class _Round(torch.autograd.Function):
    """clamp(floor(x / scale + 1/2), low, high) * scale, with the gradients of LSQ (Esser et al. 2020, eq. 3)."""

    @staticmethod
    def forward(ctx, x, scale, low, high):
        ratio = x / scale
        level = (ratio + 0.5).floor_().clamp_(low, high)
        ctx.save_for_backward(ratio, level)
        ctx.low, ctx.high = low, high
        return level * scale

    @staticmethod
    def backward(ctx, gradient):
        ratio, level = ctx.saved_tensors
        # one pass, where comparing and multiplying takes four: activations are most of what a step moves
        inside = torch.ops.aten.hardtanh_backward(gradient, ratio, ctx.low - 0.5, ctx.high + 0.5)
        step = (gradient * level).sum() - (inside * ratio).sum()
        return inside, step / math.sqrt(ratio.numel() * ctx.high), None, None


class QuantisedActivations(nn.Module):
    """A compressed network whose activations are rounded to int8, with trained steps.

    Rounded are the image and the results of every conv, linear, add, average pool and activation node but a conv or
    linear output of the network, as :func:`golden.network.quantise` has it; only the hardware's rounding of multipliers
    and biases is left out.

    Parameters
    ----------
    network : :class:`algo.network.CompressedNetwork`, shared and not copied.
    calibration : :class:`golden.network.Calibration` that the steps start from.
    """

    def __init__(self, network, calibration):
        super().__init__()
        self.network = network
        graph = network.graph
        rounded = [
            node
            for node in graph.nodes
            if node.op not in KEEPS_SCALE and not (node.op in WEIGHTED and node.name == graph.output)
        ]
        self._number = {node.name: number for number, node in enumerate(rounded)}
        self.scales = nn.ParameterList(torch.tensor(calibration.scale(node)) for node in rounded)

    def _round(self, node, value):
        if node.name not in self._number:
            return None
        scale = self.scales[self._number[node.name]]
        if node.activation == "relu6":
            scale = scale.clamp(max=_LARGEST_RELU6)
        return _Round.apply(value, scale, -128 if node.activation == "none" else 0, 127)

    def forward(self, x):
        """Real output of images float32 (N, C, H, W)."""
        return self.network(x, self._round)

    def calibration(self):
        """:class:`golden.network.Calibration` of the steps as they are.

        Raises
        ------
        MvqError : a step is no longer above 0, as after a training that diverged.
        """
        amax = {name: 127 * float(self.scales[number].detach()) for name, number in self._number.items()}
        for name, value in amax.items():
            if not value > 0:
                raise MvqError(f"the step of node {name!r} became {value / 127}; train with a lower rate")
        return Calibration(amax)


def trained_calibration(network):
    """What fine-tuning with ``activations = "int8"`` learned.

    Parameters
    ----------
    network : :class:`algo.network.CompressedNetwork` or :class:`golden.checkpoint.Checkpoint`.

    Returns
    -------
    golden.network.Calibration

    Raises
    ------
    MvqError : the network was not fine-tuned so.
    """
    amax = network.statistics.get("activations")
    if amax is None:
        raise MvqError(
            "the network has no trained activations; fine-tune it with activations = 'int8', or calibrate it"
        )
    return Calibration(amax)
