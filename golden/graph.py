"""The network as a graph of a few operations: what the front end writes, the checkpoint stores, and every model
executes.

| op | attributes | result |
|---|---|---|
| input | shape [C, H, W] | the image |
| conv | in_channels, out_channels, kernel [h, w], stride [h, w], padding, groups, activation | (out_channels, H', W') |
| linear | in_features, out_features, activation | (out_features,) |
| activation | kind "relu" or "relu6" | as its input |
| add | activation | as its two inputs |
| max_pool, avg_pool | kernel, stride, padding (avg_pool: zeros only) | (C, H', W') |
| global_avg_pool | | (C, 1, 1) |
| flatten | | (C * H * W,) |
| pad | channels [front, back], spatial [top, bottom, left, right], filled with zeros | larger |
| slice | channels, rows, columns, each [start, stop, step] | smaller |

``padding`` is [top, bottom, left, right] in pixels; ``activation`` is "none", "relu" or "relu6". Shapes leave the batch
out.
"""

import operator
from dataclasses import dataclass, field

from hdl.config import MvqError

__all__ = ["ACTIVATIONS", "WEIGHTED", "Graph", "GraphError", "Node"]

ACTIVATIONS = ("none", "relu", "relu6")
#: operations that have weights, and so a layer in the checkpoint.
WEIGHTED = ("conv", "linear")

_WINDOW = {"kernel": 2, "stride": 2, "padding": 4}
#: op -> (number of inputs, attribute -> 0 for an integer, a length for a list of integers, or the legal strings)
_OPS = {
    "input": (0, {"shape": 3}),
    "conv": (1, {"in_channels": 0, "out_channels": 0, **_WINDOW, "groups": 0, "activation": ACTIVATIONS}),
    "linear": (1, {"in_features": 0, "out_features": 0, "activation": ACTIVATIONS}),
    "activation": (1, {"kind": ACTIVATIONS[1:]}),
    "add": (2, {"activation": ACTIVATIONS}),
    "max_pool": (1, _WINDOW),
    "avg_pool": (1, _WINDOW),
    "global_avg_pool": (1, {}),
    "flatten": (1, {}),
    "pad": (1, {"channels": 2, "spatial": 4}),
    "slice": (1, {"channels": 3, "rows": 3, "columns": 3}),
}
#: the smallest legal integer of an attribute; 1 for the others.
_LEAST = {"padding": 0, "channels": 0, "spatial": 0, "rows": 0, "columns": 0}


class GraphError(MvqError):
    """A graph that cannot be: the text names the node and what is wrong with it."""


def _integer(value, least):
    number = operator.index(value)
    if isinstance(value, bool) or number < least:
        raise ValueError
    return number


def _attribute(node, key, value, kind):
    """``value`` of attribute ``key`` in its one JSON form, or GraphError."""
    least = _LEAST.get(key, 1)
    try:
        if isinstance(kind, tuple):
            if value in kind:
                return value
            wanted = " or ".join(repr(name) for name in kind)
        elif kind == 0:
            wanted = f"an integer of at least {least}"
            return _integer(value, least)
        else:
            wanted = f"{kind} integers of at least {least}"
            numbers = [_integer(number, least) for number in value]
            if len(numbers) == kind:
                return numbers
    except (TypeError, ValueError):
        pass
    raise GraphError(f"node {node!r}: {key} = {value!r} must be {wanted}")


@dataclass(frozen=True)
class Node:
    """One operation.

    Parameters
    ----------
    name : unique in the graph; the layer's dotted path where the operation has weights.
    op : one of the operations in the module's table.
    inputs : names of the nodes it reads.
    attrs : exactly the attributes that the table gives ``op``; lists for sequences, as in JSON.

    Raises
    ------
    GraphError : unknown operation, wrong number of inputs, or a missing, unknown or illegal attribute.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    attrs: dict = field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name:
            raise GraphError(f"node name {self.name!r} must be text that is not empty")
        if self.op not in _OPS:
            raise GraphError(f"node {self.name!r}: unknown operation {self.op!r}; the operations are {', '.join(_OPS)}")
        count, kinds = _OPS[self.op]
        object.__setattr__(self, "inputs", tuple(self.inputs))
        if len(self.inputs) != count:
            raise GraphError(f"node {self.name!r}: {self.op} has {count} inputs, not {len(self.inputs)}")
        for key in kinds.keys() - self.attrs.keys():
            raise GraphError(f"node {self.name!r}: {self.op} needs the attribute {key!r}")
        for key in self.attrs.keys() - kinds.keys():
            raise GraphError(f"node {self.name!r}: {self.op} has no attribute {key!r}")
        attrs = {key: _attribute(self.name, key, self.attrs[key], kind) for key, kind in kinds.items()}
        object.__setattr__(self, "attrs", attrs)

    @property
    def activation(self):
        """``none``, ``relu`` or ``relu6``: what follows the operation."""
        return self.attrs.get("activation", self.attrs.get("kind", "none"))

    @property
    def weight_shape(self):
        """(K, C / groups, kh, kw) of a convolution, (K, F) of a linear layer, None of anything else."""
        attrs = self.attrs
        if self.op == "conv":
            return (attrs["out_channels"], attrs["in_channels"] // attrs["groups"], *attrs["kernel"])
        return (attrs["out_features"], attrs["in_features"]) if self.op == "linear" else None

    def to_dict(self):
        """Plain JSON form."""
        return {"name": self.name, "op": self.op, "inputs": list(self.inputs), "attrs": dict(self.attrs)}

    @classmethod
    def from_dict(cls, data):
        """The inverse of :meth:`to_dict`; raises GraphError."""
        try:
            return cls(data["name"], data["op"], tuple(data["inputs"]), dict(data["attrs"]))
        except (KeyError, TypeError) as error:
            raise GraphError(f"a node needs name, op, inputs and attrs, not {data!r}") from error


def _windows(node, height, width):
    """Rows and columns of windows of a convolution or pool over (height, width) pixels."""
    top, bottom, left, right = node.attrs["padding"]
    sizes = []
    for what, extent, kernel, stride in zip(
        ("rows", "columns"),
        (height + top + bottom, width + left + right),
        node.attrs["kernel"],
        node.attrs["stride"],
        strict=True,
    ):
        if kernel > extent:
            raise GraphError(f"node {node.name!r}: kernel of {kernel} {what} exceeds the padded input of {extent}")
        sizes.append((extent - kernel) // stride + 1)
    return tuple(sizes)


def _conv_shape(node, shape):
    attrs = node.attrs
    channels, groups = attrs["in_channels"], attrs["groups"]
    if shape[0] != channels:
        raise GraphError(f"node {node.name!r}: in_channels = {channels}, but its input has {shape[0]} channels")
    for key in ("in_channels", "out_channels"):
        if attrs[key] % groups:
            raise GraphError(f"node {node.name!r}: {key} = {attrs[key]} must be a multiple of groups = {groups}")
    return (attrs["out_channels"], *_windows(node, *shape[1:]))


def _pool_shape(node, shape):
    top, bottom, left, right = node.attrs["padding"]
    rows, columns = node.attrs["kernel"]
    if node.op == "avg_pool" and any(node.attrs["padding"]):
        raise GraphError(
            f"node {node.name!r}: avg_pool cannot pad (padding = {node.attrs['padding']}); put a pad before it"
        )
    if max(top, bottom) >= rows or max(left, right) >= columns:
        raise GraphError(
            f"node {node.name!r}: padding {node.attrs['padding']} must be below the kernel {[rows, columns]}"
        )
    return (shape[0], *_windows(node, *shape[1:]))


def _pad_shape(node, shape):
    top, bottom, left, right = node.attrs["spatial"]
    return (shape[0] + sum(node.attrs["channels"]), shape[1] + top + bottom, shape[2] + left + right)


def _slice_shape(node, shape):
    sizes = []
    for key, extent in zip(("channels", "rows", "columns"), shape, strict=True):
        start, stop, step = node.attrs[key]
        if not (start < stop <= extent and step >= 1):
            raise GraphError(
                f"node {node.name!r}: {key} = {[start, stop, step]} must be [start, stop, step], "
                f"start < stop <= {extent}"
            )
        sizes.append(len(range(start, stop, step)))
    return tuple(sizes)


def _shape(node, inputs):
    """Shape of the result of ``node`` from the shapes of its inputs."""
    if node.op == "input":
        return tuple(node.attrs["shape"])
    shape = inputs[0]
    if node.op == "activation":
        return shape
    if node.op == "add":
        if inputs[0] != inputs[1]:
            raise GraphError(f"node {node.name!r}: adds the shapes {inputs[0]} and {inputs[1]}, which differ")
        return shape
    if node.op == "linear":
        if shape != (node.attrs["in_features"],):
            raise GraphError(
                f"node {node.name!r}: in_features = {node.attrs['in_features']}, but its input has the shape {shape}"
            )
        return (node.attrs["out_features"],)
    if len(shape) != 3:
        raise GraphError(f"node {node.name!r}: {node.op} needs an input (C, H, W), not {shape}")
    if node.op == "flatten":
        return (shape[0] * shape[1] * shape[2],)
    if node.op == "global_avg_pool":
        return (shape[0], 1, 1)
    infer = {
        "conv": _conv_shape,
        "max_pool": _pool_shape,
        "avg_pool": _pool_shape,
        "pad": _pad_shape,
        "slice": _slice_shape,
    }
    return infer[node.op](node, shape)


class Graph:
    """Nodes in topological order, the first of which is the only input.

    Parameters
    ----------
    nodes : the operations; each reads only nodes before it.
    output : name of the node whose value is the network's result; no other node reads it.

    Raises
    ------
    GraphError : names the node that does not fit, and why.
    """

    def __init__(self, nodes, output):
        self.nodes, self.output = list(nodes), output
        if [node.op for node in self.nodes].count("input") != 1 or self.nodes[0].op != "input":
            raise GraphError("a graph needs exactly one input node, as its first")
        self._shapes = {}
        for node in self.nodes:
            if node.name in self._shapes:
                raise GraphError(f"node {node.name!r} appears twice")
            for name in node.inputs:
                if name not in self._shapes:
                    raise GraphError(f"node {node.name!r} reads {name!r}, which no node before it is called")
            self._shapes[node.name] = _shape(node, [self._shapes[name] for name in node.inputs])
        if output not in self._shapes:
            raise GraphError(f"the output {output!r} is not a node")
        if self.users(output):
            raise GraphError(f"the output {output!r} is also read by {self.users(output)[0].name!r}")
        self._by_name = {node.name: node for node in self.nodes}

    def __eq__(self, other):
        return isinstance(other, Graph) and (self.nodes, self.output) == (other.nodes, other.output)

    __hash__ = None

    def __getitem__(self, name):
        """The node called ``name``."""
        if name not in self._by_name:
            raise GraphError(f"the graph has no node {name!r}")
        return self._by_name[name]

    @property
    def input(self):
        """The input node."""
        return self.nodes[0]

    @property
    def layers(self):
        """The nodes that have weights, in order."""
        return [node for node in self.nodes if node.op in WEIGHTED]

    def users(self, name):
        """The nodes that read ``name``."""
        return [node for node in self.nodes if name in node.inputs]

    def run(self, compute, keep=True):
        """Compute every node in order.

        Parameters
        ----------
        compute : ``compute(node, *inputs)`` gives the value of a node from the values of its inputs; the input node has
            none.
        keep : keep every value; otherwise each is let go after its last use, and only the output's is left.

        Returns
        -------
        dict : node name -> value.
        """
        last_use = {name: node.name for node in self.nodes for name in node.inputs}
        values = {}
        for node in self.nodes:
            values[node.name] = compute(node, *(values[name] for name in node.inputs))
            if not keep:
                for name in set(node.inputs) - {self.output}:
                    if last_use[name] == node.name:
                        del values[name]
        return values if keep else {self.output: values[self.output]}

    def shapes(self):
        """Node name -> (C, H, W) or (features,), without the batch."""
        return dict(self._shapes)

    def to_dict(self):
        """Plain JSON form."""
        return {"nodes": [node.to_dict() for node in self.nodes], "output": self.output}

    @classmethod
    def from_dict(cls, data):
        """The inverse of :meth:`to_dict`; raises GraphError."""
        try:
            return cls([Node.from_dict(node) for node in data["nodes"]], data["output"])
        except (KeyError, TypeError) as error:
            raise GraphError(f"a graph needs nodes and output, not {data!r}") from error
