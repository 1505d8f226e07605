"""The whole network in integers: scales from a calibration, int8 between the operations, raw sums at the end."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from golden import integer
from golden.files import replacing
from golden.graph import WEIGHTED, Graph
from golden.integer import Requantisation
from hdl.config import MvqError

__all__ = ["Calibration", "CalibrationError", "IntegerLayer", "IntegerNetwork", "quantise"]

#: operations whose result keeps the scale of their input.
KEEPS_SCALE = ("max_pool", "pad", "slice", "flatten")


class CalibrationError(MvqError):
    """A calibration that cannot be used: the text names the file or node and what is wrong with it."""


@dataclass(frozen=True)
class Calibration:
    """What real images showed: the largest magnitude of each node's value.

    Parameters
    ----------
    amax : node name -> float, finite and at least 0; real units, after the node's activation.

    Raises
    ------
    CalibrationError : a value is negative or not finite.
    """

    amax: dict[str, float]

    def __post_init__(self):
        object.__setattr__(self, "amax", {name: float(value) for name, value in self.amax.items()})
        for name, value in self.amax.items():
            if not (math.isfinite(value) and value >= 0):
                raise CalibrationError(f"calibration of {name!r} is {value}, but must be finite and at least 0")

    def scale(self, node):
        """Real value of one int8 step of ``node``: amax / 127 (at most 6 / 127 behind a relu6; 1 / 127 if only zeros
        were seen)."""
        if node.name not in self.amax:
            raise CalibrationError(f"the calibration has no node {node.name!r}; calibrate this network")
        largest = self.amax[node.name] or 1.0
        return (min(largest, 6.0) if node.activation == "relu6" else largest) / 127

    def save(self, path):
        """Write JSON to ``path``, first to a temporary name beside it."""
        content = {"format": "mvq-calibration", "format_version": 1, "amax": self.amax}
        with replacing(path, CalibrationError, folders=False) as temporary:
            temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, path):
        """Read what :meth:`save` wrote; raises CalibrationError."""
        try:
            content = json.loads(Path(path).read_text())
        except OSError as error:
            raise CalibrationError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise CalibrationError(f"{path}: is truncated or no JSON ({error})") from error
        if not isinstance(content, dict) or content.get("format") != "mvq-calibration":
            raise CalibrationError(f"{path}: is no calibration")
        if content.get("format_version") != 1:
            raise CalibrationError(
                f"{path}: format_version = {content.get('format_version')!r}, but only 1 can be read"
            )
        try:
            return cls(content["amax"])
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise CalibrationError(f"{path}: amax must hold a number for each node ({error})") from error


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A convolution or linear layer.

    Parameters
    ----------
    weight : int8 (K, C / groups, kh, kw) or (K, F).
    psum_scale : float64 (K,), real value of one step of the sum: input scale * channel_scale.
    bias : float64 (K,), real.
    requantisation : None when the layer is the network's output, whose sums stay raw.
    """

    weight: np.ndarray
    psum_scale: np.ndarray
    bias: np.ndarray
    requantisation: Requantisation | None

    @property
    def raw(self):
        """True for the network's output: int32 sums instead of int8."""
        return self.requantisation is None


class IntegerNetwork:
    """What the accelerator computes, operation by operation; :func:`quantise` makes one.

    Parameters
    ----------
    graph : the operations.
    scales : node name -> real value of one int8 step; a raw output has none.
    layers : name of a conv or linear node -> :class:`IntegerLayer`.
    rescales : name of an add, avg_pool, global_avg_pool or activation node -> one :class:`Requantisation` for each of
        its inputs.
    ranges : node name -> (low, high), the int8 values that it can take; 0 is always among them. A raw output has none.
    """

    def __init__(self, graph: Graph, scales, layers, rescales, ranges):
        self.graph, self.scales, self.layers = graph, scales, layers
        self.rescales, self.ranges = rescales, ranges

    def quantise_input(self, images):
        """int8 (N, C, H, W) from real images (N, C, H, W): clip(rint(x / scale), -128, 127)."""
        images = np.asarray(images, dtype=np.float64)
        if images.ndim != 4 or images.shape[1:] != self.graph.shapes()[self.graph.input.name]:
            shape = self.graph.shapes()[self.graph.input.name]
            raise MvqError(f"images must have the shape (N, {', '.join(map(str, shape))}), not {images.shape}")
        if not np.isfinite(images).all():
            raise MvqError("images hold NaN or infinity; every value must be finite")
        return np.clip(np.rint(images / self.scales[self.graph.input.name]), -128, 127).astype(np.int8)

    def psum(self, name, x):
        """Exact sums int64 (N, K, ...) of layer ``name`` for its int8 input ``x``."""
        node, layer = self.graph[name], self._layer(name)
        if node.op == "linear":
            return integer.linear(x, layer.weight)
        attrs = node.attrs
        return integer.conv2d(x, layer.weight, attrs["stride"], attrs["padding"], attrs["groups"])

    def evaluate(self, name, *inputs):
        """Result of node ``name`` for the results of its input nodes: int8, or the int32 sums of a raw output."""
        node = self.graph[name]
        attrs, rescales = node.attrs, self.rescales.get(name)
        match node.op:
            case "conv" | "linear":
                layer, psum = self.layers[name], self.psum(name, inputs[0])
                return psum.astype(np.int32) if layer.raw else layer.requantisation.apply(psum)
            case "add":
                return integer.add(*inputs, *rescales)
            case "activation":
                return rescales[0].apply(inputs[0])
            case "max_pool":
                return integer.max_pool(inputs[0], attrs["kernel"], attrs["stride"], attrs["padding"])
            case "avg_pool":
                return integer.avg_pool(inputs[0], attrs["kernel"], attrs["stride"], rescales[0])
            case "global_avg_pool":
                return integer.global_avg_pool(inputs[0], rescales[0])
            case "pad":
                return integer.pad(inputs[0], attrs["spatial"], attrs["channels"])
            case "slice":
                return integer.strided_slice(inputs[0], attrs["channels"], attrs["rows"], attrs["columns"])
            case "flatten":
                return inputs[0].reshape(len(inputs[0]), -1)
        raise MvqError(f"node {name!r} is the input; it has nothing to evaluate")

    def run(self, x, keep=True):
        """Run the network.

        Parameters
        ----------
        x : int8 (N, C, H, W) from :meth:`quantise_input`.
        keep : keep every node's result; otherwise only the output's.

        Returns
        -------
        dict : node name -> int8 (N, ...); the output holds int32 sums when it is a conv or linear layer.
        """
        x = np.asarray(x)
        if x.dtype != np.int8 or x.shape[1:] != self.graph.shapes()[self.graph.input.name]:
            raise MvqError(f"the input must be int8 (N, C, H, W) as quantise_input gives it, not {x.dtype} {x.shape}")
        return self.graph.run(lambda node, *inputs: self.evaluate(node.name, *inputs) if inputs else x, keep)

    def logits(self, output):
        """Real values float64 of the output node's result: psum * psum_scale + bias and the activation, or int8 *
        scale."""
        node, output = self.graph[self.graph.output], np.asarray(output, np.float64)
        if node.name not in self.layers:
            return output * self.scales[node.name]
        layer, by_channel = self.layers[node.name], (-1, *[1] * (output.ndim - 2))
        real = output * layer.psum_scale.reshape(by_channel) + layer.bias.reshape(by_channel)
        low, high = {"none": (-np.inf, np.inf), "relu": (0, np.inf), "relu6": (0, 6)}[node.activation]
        return np.clip(real, low, high)

    def psum_bound(self, name):
        """Bounds of every partial sum of layer ``name``, for the weights at hand and any order of accumulation.

        The sum of each channel's negative products and that of its positive ones, each at its worst over the values
        that the input can take. A partial sum holds a subset of the products, so it lies between; an input exists that
        reaches either bound, wherever a window lies wholly inside the image.

        Returns
        -------
        (low, high) : low <= 0 <= high.
        """
        source = self.graph[name].inputs[0]
        return _psum_bound(self._layer(name).weight, self.ranges[source])

    def _layer(self, name):
        if name not in self.layers:
            raise MvqError(f"{name!r} is no layer with weights; these are {', '.join(self.layers)}")
        return self.layers[name]


def _psum_bound(weight, input_range):
    """(low, high) of the sums of any subset of products, over all channels of ``weight`` and inputs within
    ``input_range``."""
    low, high = input_range
    weight = weight.reshape(len(weight), -1).astype(np.int64)
    positive, negative = np.maximum(weight, 0).sum(axis=1), np.minimum(weight, 0).sum(axis=1)
    return int((positive * low + negative * high).min()), int((positive * high + negative * low).max())


def _window_area(node, shapes):
    """Pixels that one result of ``node`` averages; 1 where it is no pool."""
    if node.op == "avg_pool":
        return math.prod(node.attrs["kernel"])
    return math.prod(shapes[node.inputs[0]][1:]) if node.op == "global_avg_pool" else 1


def quantise(checkpoint, calibration):
    """Bring a compressed network to integers.

    Parameters
    ----------
    checkpoint : :class:`golden.checkpoint.Checkpoint`.
    calibration : :class:`Calibration` with every node but a raw output and those that keep their input's scale.

    Returns
    -------
    IntegerNetwork

    Raises
    ------
    CalibrationError : a node is not calibrated. MvqError : a multiplier or a sum does not fit; names the layer.
    """
    graph, shapes = checkpoint.graph, checkpoint.graph.shapes()
    scales, layers, rescales, ranges = {}, {}, {}, {}
    for node in graph.nodes:
        name, sources = node.name, node.inputs
        if node.op == "input":
            scales[name], ranges[name] = calibration.scale(node), (-128, 127)
        elif node.op in KEEPS_SCALE:
            scales[name], ranges[name] = scales[sources[0]], ranges[sources[0]]
        elif node.op in WEIGHTED:
            stored, weight = checkpoint.layers[name], checkpoint.weights(name)
            low, high = _psum_bound(weight, ranges[sources[0]])
            if low < -(1 << 31) or high >= 1 << 31:
                raise MvqError(f"layer {name!r}: its sums reach {low} to {high}, beyond 32 bits")
            psum_scale = scales[sources[0]] * stored.channel_scale.astype(np.float64)
            bias, word = stored.channel_bias.astype(np.float64), None
            if name != graph.output:
                scales[name] = calibration.scale(node)
                word = Requantisation.from_real(psum_scale, bias, node.activation, scales[name], f"layer {name!r}")
                ranges[name] = word.low, word.high
            layers[name] = IntegerLayer(weight, psum_scale, bias, word)
        else:
            scales[name], area = calibration.scale(node), _window_area(node, shapes)
            rescales[name] = tuple(
                Requantisation.from_real(scales[source] / area, 0.0, node.activation, scales[name], f"node {name!r}")
                for source in sources
            )
            low = 0 if all(ranges[source][0] == 0 for source in sources) else rescales[name][0].low
            ranges[name] = low, rescales[name][0].high
    return IntegerNetwork(graph, scales, layers, rescales, ranges)
