"""From a torch network to the project's graph: trace with torch.fx, refuse what is not supported, fuse what belongs
together.

The network is traced in evaluation mode with a concrete input shape, so sizes (``x.shape``, ``x.size(0)``) are plain
integers and a forward function may branch on them. Batch normalisation is attached to the convolution before it,
activations to the convolution, linear layer or addition before them, and zero padding to the one convolution that reads
it.
"""

import math
import operator
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.fx
from torch import nn

from golden.graph import WEIGHTED, Graph, GraphError, Node
from hdl.config import MvqError

__all__ = ["BatchNorm", "FloatLayer", "Survey", "UnsupportedLayerError", "survey", "trace", "user_line"]

SUPPORTED = (
    "Conv2d without dilation, BatchNorm2d right after a Conv2d, ReLU, ReLU6, addition of two equal shapes, MaxPool2d, "
    "AvgPool2d, AdaptiveAvgPool2d, mean over (2, 3), Linear, flatten, zero padding, slices, Dropout and Identity"
)

#: why a network cannot be traced whose forward looks at numbers.
_DECIDES = "it uses a tensor's values as plain numbers, which differ from image to image; only its shapes are fixed"

#: what may be a plain number while tracing, because it is the same for every image.
_OF_SHAPES = (
    "getattr",
    "size",
    "dim",
    "ndimension",
    "numel",
    "nelement",
    "stride",
    "is_contiguous",
    "is_floating_point",
)

#: images in the traced batch: two, so that a reshape that mixes images is seen.
_BATCH = 2


#: code that is not the user's.
_NOT_THEIRS = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")


def user_line(error):
    """``file:line`` of the user's code that ``error`` comes from; None where it passed through none."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(_NOT_THEIRS)]
    return f"{theirs[-1].filename}:{theirs[-1].lineno}" if theirs else None


class UnsupportedLayerError(MvqError):
    """A module or function that the front end cannot translate; names it, where it is, and what is supported."""

    def __init__(self, what, where, reason=None):
        self.what, self.where, self.because = what, where, f": {reason}" if reason else ""
        place = f" at {where!r}" if where else ""
        super().__init__(f"{what}{place} is not supported{self.because}; supported are {SUPPORTED}")


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """Parameters of a batch normalisation over K channels.

    Parameters
    ----------
    weight, bias, mean, variance : float32 (K,).
    epsilon : added to the variance.
    momentum : of the running statistics; None is a plain average.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor
    epsilon: float
    momentum: float | None


@dataclass(frozen=True, eq=False)
class FloatLayer:
    """What a conv or linear node computes with before compression.

    Parameters
    ----------
    weight : float32 (K, C / groups, kh, kw) or (K, F).
    bias : float32 (K,), or None.
    bn : the batch normalisation that follows, or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    bn: BatchNorm | None = None


@dataclass(frozen=True, eq=False)
class Survey:
    """What is in a network, whether or not all of it is supported.

    Parameters
    ----------
    layers : the conv and linear nodes, in order.
    refused : :class:`UnsupportedLayerError` for each part that is not supported.
    """

    layers: list[Node]
    refused: list[UnsupportedLayerError]


class _ShapedProxy(torch.fx.Proxy):
    """A proxy that knows its tensor's shape."""

    def __getattr__(self, name):
        if name in ("shape", "ndim", "dtype", "device"):
            return getattr(self.node.meta["value"], name)
        return super().__getattr__(name)

    def __len__(self):
        return len(self.node.meta["value"])

    def __int__(self):
        raise torch.fx.proxy.TraceError(_DECIDES)

    __float__ = __int__


class _Tracer(torch.fx.Tracer):
    """Trace and execute at once, so that everything that is not a tensor is concrete."""

    def __init__(self, root, x):
        super().__init__()
        self._module, self._x, self._executing = root, x, False

    def getattr(self, attr, attr_val, parameter_proxy_cache):
        return attr_val if self._executing else super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, m, forward, args, kwargs):
        return forward(*args, **kwargs) if self._executing else super().call_module(m, forward, args, kwargs)

    def to_bool(self, obj):
        raise torch.fx.proxy.TraceError(_DECIDES)

    def proxy(self, node):
        return _ShapedProxy(node, self)

    def create_proxy(self, kind, target, args, kwargs, *rest, **options):
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        if kind == "output":
            return proxy
        self._executing = True
        try:
            value = self._evaluate(proxy.node)
        finally:
            self._executing = False
        if isinstance(value, (bool, int, float, list, np.ndarray)) and _kind(proxy.node, None) not in _OF_SHAPES:
            raise torch.fx.proxy.TraceError(_DECIDES)
        if not isinstance(value, torch.Tensor):
            return value
        proxy.node.meta["value"] = value
        return proxy

    def _evaluate(self, node):
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda argument: argument.meta["value"])
        if node.op == "placeholder":
            return self._x if node is next(iter(self.graph.nodes)) else (node.args[0] if node.args else None)
        if node.op == "get_attr":
            return operator.attrgetter(node.target)(self._module)
        if node.op == "call_module":
            return self._module.get_submodule(node.target)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        return node.target(*args, **kwargs)


def _pair(value):
    return [int(value), int(value)] if isinstance(value, int) else [int(number) for number in value]


def _bound(names, node, **defaults):
    """Arguments of an fx call by name: ``names`` in the order of the signature, ``defaults`` for the rest."""
    given = dict(zip(names, node.args, strict=False))
    return {**dict.fromkeys(names), **defaults, **given, **node.kwargs}


def _kind(node, module):
    """What a person calls the operation of an fx node."""
    if node.op == "call_module":
        return type(module).__name__
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


class _Builder:
    """Translate fx nodes into graph nodes one by one; :meth:`finish` fuses them."""

    def __init__(self, module, input_shape):
        self.module, self.input_shape = module, input_shape
        self.nodes = {}  # name -> Node
        self.layers = {}  # name -> FloatLayer
        self.names = {}  # fx node -> name of the graph node with its value
        self.norms = {}  # name of a batch normalisation that waits for its convolution -> (BatchNorm, where)

    # ---- helpers ---------------------------------------------------------------------------------------------------

    def where(self, node):
        """Dotted path of the module that an fx node is, or is called in; empty for the network itself."""
        if node.op == "call_module":
            return str(node.target)
        stack = node.meta.get("nn_module_stack")
        return list(stack.values())[-1][0] if stack else ""

    def refuse(self, node, reason=None):
        module = self.module.get_submodule(node.target) if node.op == "call_module" else None
        raise UnsupportedLayerError(_kind(node, module), self.where(node), reason)

    def unique(self, name):
        if name not in self.nodes:
            return name
        return next(f"{name}_{i}" for i in range(1, len(self.nodes) + 2) if f"{name}_{i}" not in self.nodes)

    def emit(self, fx_node, op, inputs, name=None, **attrs):
        """Add a graph node that stands for ``fx_node``; ``inputs`` are fx nodes or names."""
        names = tuple(item if isinstance(item, str) else self.source(fx_node, item) for item in inputs)
        name = self.unique(name or (str(fx_node.target) if fx_node.op == "call_module" else fx_node.name))
        try:
            self.nodes[name] = Node(name, op, names, attrs)
        except GraphError as error:
            self.refuse(fx_node, str(error))
        self.names[fx_node] = name
        return name

    def source(self, fx_node, argument):
        if not isinstance(argument, torch.fx.Node) or argument not in self.names:
            self.refuse(fx_node, f"its input {argument} is not a feature map")
        return self.names[argument]

    @staticmethod
    def shape(fx_node):
        return tuple(fx_node.meta["value"].shape)

    # ---- layers with weights ---------------------------------------------------------------------------------------

    def add_layer(self, node, x, name, weight, bias, op, **attrs):
        if name in self.layers:
            self.refuse(node, f"the weights of {name!r} are used twice")
        weight, bias = (None if tensor is None else tensor.detach().float().clone() for tensor in (weight, bias))
        for what, tensor in (("weight", weight), ("bias", bias)):
            if tensor is not None and not torch.isfinite(tensor).all():
                raise MvqError(f"layer {name!r}: its {what} must be finite, but some are NaN or infinite")
        if name in self.nodes:
            self.refuse(node, f"the name {name!r} is taken")
        self.emit(node, op, [x], name=name, **attrs)
        self.layers[name] = FloatLayer(weight, bias)

    def conv(self, node, x, name, weight, bias, stride, padding, dilation, groups):
        if weight.dim() != 4:
            self.refuse(node, "only two-dimensional convolutions are")
        if _pair(dilation) != [1, 1]:
            self.refuse(node, f"dilation = {tuple(_pair(dilation))} must be 1")
        kernel = list(weight.shape[2:])
        if padding == "valid":
            sides = [0, 0, 0, 0]
        elif padding == "same":
            total = [extent - 1 for extent in kernel]
            sides = [total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2]
        else:
            rows, columns = _pair(padding)
            sides = [rows, rows, columns, columns]
        attrs = {
            "in_channels": weight.shape[1] * groups,
            "out_channels": weight.shape[0],
            "kernel": kernel,
            "stride": _pair(stride),
            "padding": sides,
            "groups": groups,
            "activation": "none",
        }
        self.add_layer(node, x, name, weight, bias, "conv", **attrs)

    def linear(self, node, x, name, weight, bias):
        if len(self.shape(x)) != 2:
            self.refuse(node, f"its input must be (N, features), not {self.shape(x)}; flatten it first")
        features = {"in_features": weight.shape[1], "out_features": weight.shape[0], "activation": "none"}
        self.add_layer(node, x, name, weight, bias, "linear", **features)

    def parameter(self, node, argument, what):
        """Tensor and layer path of a weight or bias that a function is given; it must be a plain parameter."""
        if argument is None:
            return None, None
        if not isinstance(argument, torch.fx.Node) or argument.op != "get_attr":
            self.refuse(node, f"its {what} is computed")
        path, _, _ = str(argument.target).rpartition(".")
        return argument.meta["value"], path or str(argument.target)

    def batch_norm(self, node, module):
        if module.running_mean is None:
            self.refuse(node, "it has no running statistics")
        ones = torch.ones_like(module.running_mean)
        parameters = [
            ones if module.weight is None else module.weight,
            ones * 0 if module.bias is None else module.bias,
            module.running_mean,
            module.running_var,
        ]
        parameters = [tensor.detach().float().clone() for tensor in parameters]
        if not all(torch.isfinite(tensor).all() for tensor in parameters):
            raise MvqError(f"layer {node.target!r}: its parameters must be finite, but some are NaN or infinite")
        # stands in the graph as an activation until it is fused
        name = self.emit(node, "activation", [node.args[0]], kind="relu")
        self.norms[name] = (BatchNorm(*parameters, module.eps, module.momentum), node)

    # ---- pooling ---------------------------------------------------------------------------------------------------

    def pool(
        self, node, op, x, kernel, stride, padding, ceil_mode, dilation=1, include=True, divisor=None, indices=False
    ):
        kernel, padding = _pair(kernel), _pair(padding)
        stride = kernel if stride is None or stride == [] else _pair(stride)
        if _pair(dilation) != [1, 1] or divisor is not None or indices:
            self.refuse(node, "neither dilation, divisor_override nor return_indices is")
        height, width = self.shape(x)[2:]
        sizes = [(e + 2 * p - k) // s + 1 for e, p, k, s in zip((height, width), padding, kernel, stride, strict=True)]
        if ceil_mode and sizes != list(self.shape(node)[2:]):
            self.refuse(node, "ceil_mode adds windows that reach over the edge")
        sides = [padding[0], padding[0], padding[1], padding[1]]
        if op == "avg_pool" and any(sides):
            if not include:
                self.refuse(node, "padding with count_include_pad = False")
            x = self.emit(node, "pad", [x], name=f"{node.name}.pad", channels=[0, 0], spatial=sides)
            sides = [0, 0, 0, 0]
        elif op == "avg_pool" and kernel == [height, width]:
            self.emit(node, "global_avg_pool", [x])
            return
        self.emit(node, op, [x], kernel=kernel, stride=stride, padding=sides)

    def adaptive_pool(self, node, x, size):
        height, width = self.shape(x)[2:]
        size = [size, size] if isinstance(size, int) or size is None else list(size)
        rows, columns = (
            extent if wanted is None else wanted for wanted, extent in zip(size, (height, width), strict=True)
        )
        if (rows, columns) == (1, 1):
            self.emit(node, "global_avg_pool", [x])
            return
        if height % rows or width % columns:
            self.refuse(node, f"an output of {(rows, columns)} does not divide {(height, width)}")
        kernel = [height // rows, width // columns]
        self.emit(node, "avg_pool", [x], kernel=kernel, stride=kernel, padding=[0, 0, 0, 0])

    def mean(self, node, x, axes, keep):
        axes = [axes] if isinstance(axes, int) else list(axes or [])
        if len(self.shape(x)) != 4 or sorted(axis % 4 for axis in axes) != [2, 3]:
            self.refuse(node, "only the mean over rows and columns is")
        if keep:
            self.emit(node, "global_avg_pool", [x])
            return
        pooled = self.emit(node, "global_avg_pool", [x], name=f"{node.name}.pool")
        self.emit(node, "flatten", [pooled])

    # ---- shapes ----------------------------------------------------------------------------------------------------

    def flatten(self, node, x):
        before, after = self.shape(x), self.shape(node)
        if before == after:
            self.names[node] = self.source(node, x)
        elif after == (before[0], math.prod(before[1:])) and len(before) == 4:
            self.emit(node, "flatten", [x])
        else:
            self.refuse(node, f"{before} to {after} is no flattening of each image")

    def pad(self, node, x, sides, mode, value):
        sides = [int(side) for side in sides]
        sides += [0] * (8 - len(sides))
        if mode != "constant" or value not in (None, 0, 0.0):
            self.refuse(node, "only padding with zeros is")
        left, right, top, bottom, front, back, *batch = sides
        if len(self.shape(x)) != 4 or min(sides) < 0 or any(batch):
            self.refuse(node, "only channels, rows and columns can be padded, and not by a negative number")
        self.emit(node, "pad", [x], channels=[front, back], spatial=[top, bottom, left, right])

    def getitem(self, node, x, key):
        key = list(key) if isinstance(key, tuple) else [key]
        shape = self.shape(x)
        if Ellipsis in key:
            at = key.index(Ellipsis)
            key[at : at + 1] = [slice(None)] * (len(shape) - len(key) + 1)
        key += [slice(None)] * (len(shape) - len(key))
        if len(shape) != 4 or not all(isinstance(part, slice) for part in key):
            self.refuse(node, "only slices of (N, C, H, W) are")
        ranges = [list(part.indices(extent)) for part, extent in zip(key, shape, strict=True)]
        if ranges[0] != [0, _BATCH, 1]:
            self.refuse(node, "the batch cannot be sliced")
        self.emit(node, "slice", [x], **dict(zip(("channels", "rows", "columns"), ranges[1:], strict=True)))

    # ---- dispatch --------------------------------------------------------------------------------------------------

    def call_module(self, node):
        module = self.module.get_submodule(node.target)
        x = node.args[0] if node.args else None
        if isinstance(module, nn.Conv2d):
            if module.padding_mode != "zeros":
                self.refuse(node, f"padding_mode = {module.padding_mode!r} must be 'zeros'")
            weights = module.weight, module.bias, module.stride, module.padding, module.dilation, module.groups
            self.conv(node, x, str(node.target), *weights)
        elif isinstance(module, nn.Linear):
            self.linear(node, x, str(node.target), module.weight, module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            self.batch_norm(node, module)
        elif isinstance(module, nn.ReLU6):
            self.emit(node, "activation", [x], kind="relu6")
        elif isinstance(module, nn.ReLU):
            self.emit(node, "activation", [x], kind="relu")
        elif isinstance(module, nn.Hardtanh) and (module.min_val, module.max_val) == (0, 6):
            self.emit(node, "activation", [x], kind="relu6")
        elif isinstance(module, nn.MaxPool2d):
            sizes = module.kernel_size, module.stride, module.padding, module.ceil_mode, module.dilation
            self.pool(node, "max_pool", x, *sizes, indices=module.return_indices)
        elif isinstance(module, nn.AvgPool2d):
            sizes = module.kernel_size, module.stride, module.padding, module.ceil_mode
            self.pool(node, "avg_pool", x, *sizes, include=module.count_include_pad, divisor=module.divisor_override)
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            self.adaptive_pool(node, x, module.output_size)
        elif isinstance(module, nn.Flatten):
            self.flatten(node, x)
        elif isinstance(module, nn.ZeroPad2d):
            self.pad(node, x, module.padding, "constant", 0)
        elif isinstance(module, nn.ConstantPad2d):
            self.pad(node, x, module.padding, "constant", module.value)
        elif isinstance(module, (nn.Identity, nn.Dropout, nn.Dropout2d)):
            self.names[node] = self.source(node, x)
        else:
            self.refuse(node)

    def call(self, node):
        """A function or method."""
        name = _kind(node, None)
        x = node.args[0] if node.args else None
        if name in ("relu", "relu_", "relu6"):
            self.emit(node, "activation", [x], kind=name.rstrip("_"))
        elif name in ("clamp", "clamp_", "clip", "hardtanh"):
            first, second = ("min_val", "max_val") if name == "hardtanh" else ("min", "max")
            given = _bound(["input", first, second], node)
            kinds = {(0, 6): "relu6", (0, None): "relu"}
            if (given[first], given[second]) not in kinds:
                self.refuse(node, f"{given[first]} to {given[second]} is neither ReLU nor ReLU6")
            self.emit(node, "activation", [x], kind=kinds[given[first], given[second]])
        elif name in ("add", "iadd", "add_", "__add__", "__iadd__", "__radd__"):
            self.add(node)
        elif name == "conv2d":
            names = ["input", "weight", "bias", "stride", "padding", "dilation", "groups"]
            given = _bound(names, node, stride=1, padding=0, dilation=1, groups=1)
            weight, path = self.parameter(node, given["weight"], "weight")
            bias, _ = self.parameter(node, given["bias"], "bias")
            sizes = (given[key] for key in names[3:])
            self.conv(node, given["input"], path, weight, bias, *sizes)
        elif name == "linear":
            given = _bound(["input", "weight", "bias"], node)
            weight, path = self.parameter(node, given["weight"], "weight")
            bias, _ = self.parameter(node, given["bias"], "bias")
            self.linear(node, given["input"], path, weight, bias)
        elif name == "max_pool2d":
            names = ["input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"]
            given = _bound(names, node, padding=0, dilation=1, ceil_mode=False, return_indices=False)
            sizes = (given[key] for key in ("kernel_size", "stride", "padding", "ceil_mode", "dilation"))
            self.pool(node, "max_pool", given["input"], *sizes, indices=given["return_indices"])
        elif name == "avg_pool2d":
            names = ["input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"]
            given = _bound(names, node, padding=0, ceil_mode=False, count_include_pad=True)
            sizes = (given[key] for key in ("kernel_size", "stride", "padding", "ceil_mode"))
            include, divisor = given["count_include_pad"], given["divisor_override"]
            self.pool(node, "avg_pool", given["input"], *sizes, include=include, divisor=divisor)
        elif name == "adaptive_avg_pool2d":
            self.adaptive_pool(node, x, _bound(["input", "output_size"], node)["output_size"])
        elif name == "mean":
            given = _bound(["input", "dim", "keepdim"], node)
            self.mean(node, x, given["dim"], given["keepdim"])
        elif name in ("flatten", "view", "reshape", "squeeze"):
            self.flatten(node, x)
        elif name == "pad":
            given = _bound(["input", "pad", "mode", "value"], node, mode="constant")
            self.pad(node, given["input"], given["pad"], given["mode"], given["value"])
        elif name in ("getitem", "__getitem__"):
            self.getitem(node, x, node.args[1])
        elif name in ("dropout", "dropout2d", "contiguous", "identity"):
            self.names[node] = self.source(node, x)
        else:
            self.refuse(node)

    def add(self, node):
        given = _bound(["input", "other"], node, alpha=1)
        if given["alpha"] != 1:
            self.refuse(node, f"alpha = {given['alpha']} must be 1")
        both = given["input"], given["other"]
        if not all(isinstance(item, torch.fx.Node) and item in self.names for item in both):
            self.refuse(node, "only two feature maps can be added")
        if self.shape(both[0]) != self.shape(both[1]):
            self.refuse(node, f"shapes {self.shape(both[0])[1:]} and {self.shape(both[1])[1:]} differ")
        self.emit(node, "add", both, activation="none")

    def translate_node(self, node):
        if node.op == "placeholder":
            if not self.nodes:
                self.emit(node, "input", [], name="input", shape=list(self.input_shape))
        elif node.op == "output":
            output = node.args[0]
            if not isinstance(output, torch.fx.Node) or output not in self.names:
                raise UnsupportedLayerError(
                    "a network with several outputs", None, "its forward must return one tensor"
                )
        elif "value" in node.meta and node.op == "call_module":
            self.call_module(node)
        elif "value" in node.meta and node.op != "get_attr":
            self.call(node)

    def translate(self, fx_graph):
        """(Graph, name -> FloatLayer)."""
        for node in fx_graph.nodes:
            self.translate_node(node)
        return self.finish(self.names[fx_graph.output_node().args[0]])

    def survey(self, fx_graph):
        """Translate as far as it goes: what is refused hands on its first input."""
        refused, gaps = [], set()
        for node in fx_graph.nodes:
            try:
                self.translate_node(node)
            except UnsupportedLayerError as error:
                refused.append(error)
                gaps.add(node)
                source = next((item for item in node.all_input_nodes if item in self.names), None)
                self.names[node] = self.names.get(source, "input")
        for name, (norm, fx_node) in self.norms.items():
            if fx_node.args[0] in gaps:  # what it follows is not known
                continue
            try:
                self.fuse_norm(name, norm, fx_node, None)
            except UnsupportedLayerError as error:
                refused.append(error)
        return Survey([node for node in self.nodes.values() if node.op in WEIGHTED], refused)

    # ---- fusion ----------------------------------------------------------------------------------------------------

    def users(self, name):
        return [node for node in self.nodes.values() if name in node.inputs]

    def substitute(self, old, new, output):
        """Let every reader of ``old`` read ``new``, and drop ``old``; the name of the output afterwards."""
        del self.nodes[old]
        for node in self.users(old):
            self.nodes[node.name] = replace(node, inputs=tuple(new if item == old else item for item in node.inputs))
        return new if output == old else output

    def finish(self, output):
        """Drop what the output does not need, fuse, and build the graph."""
        needed, stack = {"input"}, [output]
        while stack:
            name = stack.pop()
            if name not in needed:
                needed.add(name)
                stack.extend(self.nodes[name].inputs)
        self.nodes = {name: node for name, node in self.nodes.items() if name in needed}
        for name, (norm, fx_node) in self.norms.items():
            if name in self.nodes:
                output = self.fuse_norm(name, norm, fx_node, output)
        for node in list(self.nodes.values()):
            if node.op == "activation":
                output = self.fuse_activation(self.nodes[node.name], output)
        for node in list(self.nodes.values()):
            if node.op == "pad":
                output = self.fuse_pad(self.nodes[node.name], output)
        layers = {name: layer for name, layer in self.layers.items() if name in self.nodes}
        return Graph(list(self.nodes.values()), output), layers

    def fuse_norm(self, name, norm, fx_node, output):
        source = self.nodes[self.nodes[name].inputs[0]]
        if source.op != "conv" or len(self.users(source.name)) > 1 or self.layers[source.name].bn is not None:
            self.refuse(fx_node, f"it must follow a Conv2d that nothing else reads, not {source.name!r}")
        self.layers[source.name] = replace(self.layers[source.name], bn=norm)
        return self.substitute(name, source.name, output)

    def fuse_activation(self, node, output):
        source = self.nodes[node.inputs[0]]
        fits = source.op in ("conv", "linear", "add") and source.attrs["activation"] == "none"
        if not fits or len(self.users(source.name)) > 1:
            return output
        self.nodes[source.name] = replace(source, attrs={**source.attrs, "activation": node.attrs["kind"]})
        return self.substitute(node.name, source.name, output)

    def fuse_pad(self, node, output):
        users = self.users(node.name)
        if output == node.name or any(node.attrs["channels"]) or [user.op for user in users] != ["conv"]:
            return output
        padding = [a + b for a, b in zip(users[0].attrs["padding"], node.attrs["spatial"], strict=True)]
        self.nodes[users[0].name] = replace(users[0], attrs={**users[0].attrs, "padding": padding})
        return self.substitute(node.name, node.inputs[0], output)


def _record(module, input_shape, build):
    """Trace ``module`` in evaluation mode, and give ``build(builder, fx graph)``; ``module`` is left as it was."""
    shape = tuple(int(size) for size in input_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise MvqError(f"input_shape = {tuple(input_shape)}: must be (channels, rows, columns)")
    if type(module).__module__.startswith("torch.nn.modules") and not isinstance(
        module, (nn.Sequential, nn.ModuleList)
    ):
        module = nn.Sequential(module)
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        parameter = next(module.parameters(), torch.zeros(()))
        x = torch.zeros(_BATCH, *shape, dtype=parameter.dtype, device=parameter.device)
        with torch.no_grad():
            return build(_Builder(module, shape), _Tracer(module, x).trace(module))
    except MvqError:
        raise
    except Exception as error:  # of any kind: it runs the user's code
        reason, place = " ".join(str(error).split()), user_line(error)
        raise UnsupportedLayerError(
            type(module).__name__,
            None,
            f"it could not be traced with an input {shape}: {f'{place}: ' if place else ''}{reason}",
        ) from error
    finally:
        for part, training in modes.items():
            part.training = training


def trace(module, input_shape):
    """Translate a network.

    Parameters
    ----------
    module : an ``nn.Module`` of the supported layers, whose forward takes one batch of images.
    input_shape : (C, H, W) of an image.

    Returns
    -------
    (Graph, dict) : the graph, and the :class:`FloatLayer` of each conv and linear node by name. ``module`` is left as
    it was.

    Raises
    ------
    UnsupportedLayerError : names the module or function, its path, and what is supported; or the file and line of the
        forward that cannot be traced.
    MvqError : a weight is NaN or infinite, or the input does not fit the network.
    """
    return _record(module, input_shape, _Builder.translate)


def survey(module, input_shape):
    """List the layers of a network and everything in it that is not supported, not only the first.

    Parameters
    ----------
    module, input_shape : as for :func:`trace`.

    Returns
    -------
    Survey

    Raises
    ------
    UnsupportedLayerError : the network cannot be traced at all. MvqError : as for :func:`trace`.
    """
    return _record(module, input_shape, _Builder.survey)
