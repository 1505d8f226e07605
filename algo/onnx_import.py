"""A float ONNX model as a torch network that :func:`algo.frontend.trace` understands.

The nodes are translated one by one into a torch.fx graph, and run on an image of zeros on the way, so that every shape
is known; what depends on shapes and constants alone is computed. A layer is called as its weight was in torch.
"""

import math
import operator
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.fx
import torch.nn.functional as F
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from hdl.config import MvqError

__all__ = ["load_onnx"]

LEAST_OPSET = 13

#: whose attributes no submodule can be called.
_EMPTY = nn.Module()

SUPPORTED = (
    "Conv, BatchNormalization, Relu, Clip from 0 (to 6), Add, MaxPool, AveragePool, GlobalAveragePool, ReduceMean "
    "over rows and columns, Gemm, MatMul, Flatten, Reshape and Squeeze to two dimensions, Pad, Slice, Identity, "
    "Dropout and Constant"
)


@dataclass(frozen=True, eq=False)
class _Value:
    """A feature map: the fx node that gives it, and what it is for an image of zeros."""

    node: torch.fx.Node
    example: torch.Tensor

    @property
    def shape(self):
        return tuple(self.example.shape)


class _Import:
    """Translates the nodes of a model; ``values`` holds a :class:`_Value` or a constant array for each name."""

    def __init__(self, path, model):
        self.path, self.graph = path, torch.fx.Graph()
        self.root, self.values = nn.Module(), {}
        self.opsets = {entry.domain: entry.version for entry in model.opset_import}
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.readers = [name for node in model.graph.node for name in node.input]
        self.readers += [output.name for output in model.graph.output]

    def refuse(self, node, reason=None):
        name = node.name or next(iter(node.output), "")
        because = f": {reason}" if reason else ""
        raise MvqError(f"{self.path}: {node.op_type} at {name!r} is not supported{because}; supported are {SUPPORTED}")

    # ---- pieces of a node ------------------------------------------------------------------------------------------

    def value(self, node, at=0):
        found = self.values.get(node.input[at]) if at < len(node.input) else None
        if not isinstance(found, _Value):
            self.refuse(node, f"its input {node.input[at] if at < len(node.input) else at!r} is not a feature map")
        return found

    def constant(self, node, at, what):
        """Array of an optional input; None where it is left out."""
        if at >= len(node.input) or not node.input[at]:
            return None
        found = self.values.get(node.input[at])
        if not isinstance(found, np.ndarray):
            self.refuse(node, f"its {what} is computed")
        return found

    def tensor(self, node, at, what):
        found = self.constant(node, at, what)
        if found is None:
            return None
        if found.dtype.kind != "f":
            self.refuse(node, f"its {what} is {found.dtype}, not real")
        if not np.isfinite(found).all():
            self.refuse(node, f"its {what} must be finite, but some are NaN or infinite")
        return torch.from_numpy(found.astype(np.float32))

    def numbers(self, node, at, what):
        found = self.constant(node, at, what)
        return None if found is None else [int(number) for number in found.reshape(-1)]

    @staticmethod
    def attributes(node, **defaults):
        return defaults | {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}

    def name(self, node, at=1):
        """Path of the submodule: where its weight was in torch, or else the name of the node."""
        source = node.input[at] if at < len(node.input) and "::" not in node.input[at] else ""
        stem, dot, what = source.rpartition(".")
        wanted = stem if dot and what == "weight" else node.name or node.output[0]
        scopes = [scope for scope in wanted.split("/") if scope]
        if len(scopes) > 1 and scopes[-1] == node.op_type:  # torch calls the node of conv1 "/conv1/Conv",
            scopes.pop()
        inner = [*scopes[1:], ""]  # and that of layer1.0.conv1 "/layer1/layer1.0/conv1/Conv"
        scopes = [scope for scope, below in zip(scopes, inner, strict=True) if not below.startswith(f"{scope}.")]
        parts = [re.sub(r"\W", "_", part) for part in ".".join(scopes).split(".") if part]
        path = ".".join(f"{part}_" if hasattr(_EMPTY, part) else part for part in parts)
        taken, number = {name for name, _ in self.root.named_modules()}, 1
        free = path
        while free in taken:
            number += 1
            free = f"{path}_{number}"
        return free

    def place(self, path, module):
        """Make ``module`` the submodule ``path`` of the root."""
        parent = self.root
        *above, last = path.split(".")
        for part in above:
            if part not in dict(parent.named_children()):
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, module)

    def emit(self, node, module, value, name=None):
        """Apply ``module`` to ``value``."""
        path = name or self.name(node, len(node.input))
        self.place(path, module.eval())
        return self.run(node, self.graph.call_module(path, (value.node,)), module, value.example)

    def run(self, node, fx_node, function, *arguments):
        try:
            with torch.no_grad():
                return _Value(fx_node, function(*arguments))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            self.refuse(node, " ".join(str(error).split()))

    def padded(self, node, value, sides):
        """``value`` with zeros around it: [top, bottom, left, right]."""
        top, bottom, left, right = sides
        name = self.name(node, len(node.input)) + "_pad"
        return self.emit(node, nn.ZeroPad2d((left, right, top, bottom)), value, name)

    def window(self, node, value, attributes, kernel):
        """(stride, [top, bottom, left, right]) of a convolution or pool."""
        if len(value.shape) != 4 or len(kernel) != 2:
            self.refuse(node, "only two-dimensional windows are")
        stride = attributes["strides"] or [1, 1]
        mode, pads = attributes["auto_pad"].decode(), attributes["pads"] or [0, 0, 0, 0]
        if mode == "NOTSET":
            top, left, bottom, right = pads
            return stride, [top, bottom, left, right]
        if mode == "VALID":
            return stride, [0, 0, 0, 0]
        sides = []
        for extent, size, step in zip(value.shape[2:], kernel, stride, strict=True):
            total = max(0, (-(-extent // step) - 1) * step + size - extent)
            small, large = total // 2, total - total // 2
            sides += [small, large] if mode == "SAME_UPPER" else [large, small]
        return stride, sides

    # ---- operations ------------------------------------------------------------------------------------------------

    def conv(self, node):
        value, weight, bias = self.value(node), self.tensor(node, 1, "weight"), self.tensor(node, 2, "bias")
        attributes = self.attributes(
            node, auto_pad=b"NOTSET", dilations=None, group=1, kernel_shape=None, pads=None, strides=None
        )
        kernel, groups = list(weight.shape[2:]), attributes["group"]
        stride, sides = self.window(node, value, attributes, kernel)
        if any(step != 1 for step in attributes["dilations"] or ()):
            self.refuse(node, f"dilations = {attributes['dilations']} must be 1")
        name = self.name(node)
        symmetric = sides[0] == sides[1] and sides[2] == sides[3]
        if not symmetric:
            value = self.padded(node, value, sides)
        padding = (sides[0], sides[2]) if symmetric else 0
        channels = weight.shape[1] * groups, weight.shape[0]
        module = nn.Conv2d(*channels, kernel, stride, padding, groups=groups, bias=bias is not None)
        return self.emit(node, self.filled(module, weight=weight, bias=bias), value, name)

    @staticmethod
    def filled(module, **tensors):
        with torch.no_grad():
            for name, tensor in tensors.items():
                if tensor is not None:
                    getattr(module, name).copy_(tensor)
        return module

    def batch_norm(self, node):
        value = self.value(node)
        attributes = self.attributes(node, epsilon=1e-5, training_mode=0)
        if attributes["training_mode"]:
            self.refuse(node, "it is in training mode; export the network in evaluation mode")
        names = ("weight", "bias", "running_mean", "running_var")
        tensors = {name: self.tensor(node, at, name) for at, name in enumerate(names, 1)}
        module = nn.BatchNorm2d(len(tensors["weight"]), eps=attributes["epsilon"])
        return self.emit(node, self.filled(module, **tensors), value, self.name(node))

    def clip(self, node):
        value = self.value(node)
        low, high = (self.constant(node, at, what) for at, what in ((1, "min"), (2, "max")))
        low, high = -math.inf if low is None else float(low), math.inf if high is None else float(high)
        if low != 0 or (high not in (6, math.inf) and high < np.finfo(np.float32).max):
            self.refuse(node, f"{low:g} to {high:g} is neither ReLU nor ReLU6")
        return self.emit(node, nn.ReLU6() if high == 6 else nn.ReLU(), value)

    def add(self, node):
        both = [self.values.get(name) for name in node.input]
        if all(isinstance(value, _Value) for value in both):
            fx_node = self.graph.call_function(operator.add, tuple(value.node for value in both))
            return self.run(node, fx_node, operator.add, *(value.example for value in both))
        at = 0 if isinstance(both[0], _Value) else 1
        value, bias = self.value(node, at), self.tensor(node, 1 - at, "summand")
        module = self.root.get_submodule(value.node.target) if value.node.op == "call_module" else None
        alone = self.readers.count(node.input[at]) == 1
        fits = isinstance(module, nn.Linear) and module.bias is None and bias.numel() == module.out_features
        if not (alone and fits):
            self.refuse(node, "a constant can only be added as the bias of a MatMul")
        module.bias = nn.Parameter(bias.reshape(-1))
        return _Value(value.node, value.example + module.bias.detach())

    def pool_window(self, node):
        value = self.value(node)
        attributes = self.attributes(
            node,
            auto_pad=b"NOTSET",
            ceil_mode=0,
            count_include_pad=0,
            dilations=None,
            pads=None,
            storage_order=0,
            strides=None,
        )
        kernel = list(attributes["kernel_shape"])
        stride, sides = self.window(node, value, attributes, kernel)
        if any(step != 1 for step in attributes["dilations"] or ()):
            self.refuse(node, f"dilations = {attributes['dilations']} must be 1")
        return value, kernel, stride, sides, attributes

    def max_pool(self, node):
        value, kernel, stride, sides, attributes = self.pool_window(node)
        if len(node.output) > 1 and node.output[1]:
            self.refuse(node, "its indices are not")
        if sides[0] != sides[1] or sides[2] != sides[3]:
            self.refuse(node, f"padding [top, bottom, left, right] = {sides} must be the same on opposite sides")
        ceil = bool(attributes["ceil_mode"])
        return self.emit(node, nn.MaxPool2d(kernel, stride, (sides[0], sides[2]), ceil_mode=ceil), value)

    def average_pool(self, node):
        value, kernel, stride, sides, attributes = self.pool_window(node)
        include, ceil = bool(attributes["count_include_pad"]), bool(attributes["ceil_mode"])
        if any(sides) and include and not ceil:
            value, sides = self.padded(node, value, sides), [0, 0, 0, 0]
        if sides[0] != sides[1] or sides[2] != sides[3]:
            self.refuse(node, f"padding [top, bottom, left, right] = {sides} must be the same on opposite sides")
        include = include or not any(sides)
        return self.emit(node, nn.AvgPool2d(kernel, stride, (sides[0], sides[2]), ceil, include), value)

    def global_average_pool(self, node):
        return self.emit(node, nn.AdaptiveAvgPool2d(1), self.value(node))

    def reduce_mean(self, node):
        value, attributes = self.value(node), self.attributes(node, axes=None, keepdims=1)
        axes = attributes["axes"] or self.numbers(node, 1, "axes") or []
        rank = len(value.shape)
        if rank != 4 or sorted(axis % rank for axis in axes) != [2, 3]:
            self.refuse(node, f"axes = {list(axes)} are not rows and columns")
        pooled = self.emit(node, nn.AdaptiveAvgPool2d(1), value)
        return pooled if attributes["keepdims"] else self.emit(node, nn.Flatten(), pooled)

    def gemm(self, node):
        value, weight, bias = self.value(node), self.tensor(node, 1, "weight"), self.tensor(node, 2, "bias")
        attributes = self.attributes(node, alpha=1.0, beta=1.0, transA=0, transB=0)
        if attributes["transA"]:
            self.refuse(node, "transA = 1 mixes images")
        weight = weight * attributes["alpha"]
        weight = weight if attributes["transB"] else weight.T
        bias = None if bias is None else bias * attributes["beta"]
        return self.linear(node, value, weight, bias)

    def matmul(self, node):
        value, weight = self.value(node), self.tensor(node, 1, "weight")
        if weight.dim() != 2:
            self.refuse(node, f"its weight has the shape {tuple(weight.shape)}, not two dimensions")
        return self.linear(node, value, weight.T, None)

    def linear(self, node, value, weight, bias):
        module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        if bias is not None and bias.numel() != len(weight):
            self.refuse(node, f"its bias has {bias.numel()} numbers for {len(weight)} outputs")
        bias = None if bias is None else bias.reshape(-1)
        return self.emit(node, self.filled(module, weight=weight, bias=bias), value, self.name(node))

    def flatten(self, node):
        """Flatten, Reshape or Squeeze to (N, features)."""
        value = self.value(node)
        if node.op_type == "Flatten":
            axis = self.attributes(node, axis=1)["axis"] % len(value.shape)
            after = (math.prod(value.shape[:axis]), math.prod(value.shape[axis:]))
        elif node.op_type == "Squeeze":
            axes = self.numbers(node, 1, "axes")
            axes = range(len(value.shape)) if axes is None else [axis % len(value.shape) for axis in axes]
            after = tuple(size for at, size in enumerate(value.shape) if size != 1 or at not in axes)
        else:
            shape = self.numbers(node, 1, "shape")
            keep = not self.attributes(node, allowzero=0)["allowzero"]
            shape = [value.shape[at] if size == 0 and keep else size for at, size in enumerate(shape)]
            after = self.run(node, None, torch.reshape, value.example, shape).shape
        if after != (1, math.prod(value.shape)):
            self.refuse(node, f"{value.shape} to {after} is no flattening of an image")
        return self.emit(node, nn.Flatten(), value)

    def pad(self, node):
        value, pads = self.value(node), self.numbers(node, 1, "pads")
        fill, axes = self.constant(node, 2, "constant_value"), self.numbers(node, 3, "axes")
        mode = self.attributes(node, mode=b"constant")["mode"].decode()
        if mode != "constant" or (fill is not None and fill.size and float(fill) != 0):
            self.refuse(node, "only padding with zeros is")
        rank = len(value.shape)
        axes = list(range(rank)) if axes is None else [axis % rank for axis in axes]
        before, after = dict(zip(axes, pads, strict=False)), dict(zip(axes, pads[len(axes) :], strict=False))
        sides = [side for axis in reversed(range(rank)) for side in (before.get(axis, 0), after.get(axis, 0))]
        return self.run(node, self.graph.call_function(F.pad, (value.node, sides)), F.pad, value.example, sides)

    def slice(self, node):
        value = self.value(node)
        starts, ends, axes, steps = (
            self.numbers(node, at, what) for at, what in enumerate(("starts", "ends", "axes", "steps"), 1)
        )
        key = [slice(None)] * len(value.shape)
        for at, (start, end) in enumerate(zip(starts, ends, strict=True)):
            key[at if axes is None else axes[at]] = slice(start, end, None if steps is None else steps[at])
        key = tuple(key)
        fx_node = self.graph.call_function(operator.getitem, (value.node, key))
        return self.run(node, fx_node, operator.getitem, value.example, key)

    def same(self, node):
        """Identity and Dropout."""
        if len(node.output) > 1 and node.output[1] in self.readers:
            self.refuse(node, "its mask is not")
        training = self.constant(node, 2, "training_mode") if node.op_type == "Dropout" else None
        if training is not None and bool(training):
            self.refuse(node, "it is in training mode; export the network in evaluation mode")
        return self.value(node)

    _OPERATIONS = {
        "Conv": conv,
        "BatchNormalization": batch_norm,
        "Relu": lambda self, node: self.emit(node, nn.ReLU(), self.value(node)),
        "Clip": clip,
        "Add": add,
        "MaxPool": max_pool,
        "AveragePool": average_pool,
        "GlobalAveragePool": global_average_pool,
        "ReduceMean": reduce_mean,
        "Gemm": gemm,
        "MatMul": matmul,
        "Flatten": flatten,
        "Reshape": flatten,
        "Squeeze": flatten,
        "Pad": pad,
        "Slice": slice,
        "Identity": same,
        "Dropout": same,
    }

    def translate(self, node):
        if node.domain not in ("", "ai.onnx"):
            self.refuse(node, f"it is of the domain {node.domain!r}")
        known = [self.values.get(name) for name in node.input if name]
        if node.op_type == "Shape" and isinstance(known[0], _Value):
            attributes = self.attributes(node, start=0, end=None)
            shape = known[0].shape[attributes["start"] : attributes["end"]]
            self.values[node.output[0]] = np.array(shape, np.int64)
        elif all(isinstance(value, np.ndarray) for value in known):
            self.fold(node)
        elif node.op_type in self._OPERATIONS:
            self.values[node.output[0]] = self._OPERATIONS[node.op_type](self, node)
        else:
            self.refuse(node)

    def fold(self, node):
        """Compute a node that depends on constants alone."""
        arguments = {name: self.values[name] for name in node.input if name}
        try:
            results = ReferenceEvaluator(node, opsets=self.opsets).run(None, arguments)
        except Exception as error:  # of any kind: it runs whatever operation the file names
            self.refuse(node, " ".join(str(error).split()))
        self.values.update(zip(node.output, map(np.asarray, results), strict=False))


def _read(path):
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except OSError as error:
        raise MvqError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        raise MvqError(f"{path}: is truncated or no ONNX model ({str(error).strip().splitlines()[0]})") from error
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if version < LEAST_OPSET:
        raise MvqError(f"{path}: opset = {version}: must be at least {LEAST_OPSET}; export it again with that")
    return model


def _image_input(path, model, input_shape):
    """(name, (C, H, W)) of the one input."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in weights]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise MvqError(
            f"{path}: has {len(inputs)} inputs and {len(model.graph.output)} outputs, but must have one of each"
        )
    tensor = inputs[0].type.tensor_type
    shape = [axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim]
    if len(shape) != 4 or tensor.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise MvqError(f"{path}: its input {inputs[0].name!r} must be float (N, C, H, W), not {kind} {shape}")
    if input_shape is None and None in shape[1:]:
        raise MvqError(f"{path}: leaves the size of its images open; give --input channels,rows,columns")
    wanted = tuple(shape[1:]) if input_shape is None else tuple(input_shape)
    if any(size not in (None, given) for size, given in zip(shape[1:], wanted, strict=True)):
        raise MvqError(f"{path}: takes images of {shape[1:]}, not {wanted}")
    return inputs[0].name, wanted


def load_onnx(path, input_shape=None):
    """Read a float model of opset 13 or later.

    Parameters
    ----------
    path : .onnx file.
    input_shape : (C, H, W) where the model leaves it open.

    Returns
    -------
    (torch.fx.GraphModule, tuple) : the network in evaluation mode, and its input shape.

    Raises
    ------
    MvqError : the file cannot be read, or a node is not supported; names the node and its operation.
    """
    path = Path(path)
    model = _read(path)
    name, shape = _image_input(path, model, input_shape)
    importer = _Import(path, model)
    importer.values.update(importer.constants)
    importer.values[name] = _Value(importer.graph.placeholder("x"), torch.zeros(1, *shape))
    for node in model.graph.node:
        importer.translate(node)
    output = importer.values.get(model.graph.output[0].name)
    if not isinstance(output, _Value):
        raise MvqError(f"{path}: its output does not depend on its input")
    importer.graph.output(output.node)
    importer.graph.lint()
    return torch.fx.GraphModule(importer.root, importer.graph).eval(), shape
