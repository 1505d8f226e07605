"""Networks as lists of layer shapes: the five of the paper's evaluation, a user's file, or a checkpoint's graph.

A user's file, TOML or JSON, holds the image and the layers, each of which reads the layer before it unless ``inputs``
names others or ``input`` gives the shape of a tensor that comes from memory::

    name = "mine"
    image = [3, 32, 32]

    [[layers]]
    name = "conv1"
    out_channels = 64
    kernel = 3            # or [rows, columns]
    padding = 1           # or [rows, columns], or [top, bottom, left, right]

    [[layers]]
    name = "pool"
    op = "max_pool"       # conv (default), linear, max_pool, avg_pool, global_avg_pool, add
    kernel = 2
    stride = 2
"""

import json
import math
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from golden.graph import WEIGHTED
from golden.schedule import LayerShape
from hdl.config import MvqError

__all__ = ["IMAGE", "NETWORKS", "Layer", "Network", "NetworkError", "from_graph", "load_network", "read_network"]

#: name of the tensor that the network reads.
IMAGE = "image"


class NetworkError(MvqError):
    """A network that cannot be read: names the file or layer, and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer.

    Parameters
    ----------
    name : also the name of the tensor that it makes.
    op : ``conv`` (a linear layer is one with a kernel of the whole map), ``pool`` (windows of ``kernel``), ``add``, or
        ``move`` (a pad, slice or activation by itself).
    inputs : tensors that it reads; a name that no layer has is a tensor from memory.
    ifmap, ofmap : (channels, rows, columns).
    kernel, stride : (rows, columns). ``padding`` : (top, bottom, left, right). ``groups`` : of the channels.
    compressed : weights are stored as codebook indices and masks where the array reads those.
    raw : the network's result, four bytes a value.
    """

    name: str
    op: Literal["conv", "pool", "add", "move"]
    inputs: tuple[str, ...]
    ifmap: tuple[int, int, int]
    ofmap: tuple[int, int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    compressed: bool = False
    raw: bool = False

    @property
    def linear(self):
        """One pixel comes out: a linear layer."""
        return self.op == "conv" and self.ofmap[1:] == (1, 1)

    @property
    def depthwise(self):
        """Every output channel sees one input channel."""
        return self.op == "conv" and self.groups == self.ifmap[0] == self.ofmap[0] > 1

    @property
    def weights(self):
        """Weights of a convolution, else 0."""
        if self.op != "conv":
            return 0
        return self.ofmap[0] * self.ifmap[0] // self.groups * math.prod(self.kernel)

    @property
    def macs(self):
        """Multiplications of the dense layer."""
        return self.weights * math.prod(self.ofmap[1:])

    @property
    def shape(self):
        """:class:`golden.schedule.LayerShape` of a convolution."""
        return LayerShape(
            name=self.name,
            out_channels=self.ofmap[0],
            in_channels=self.ifmap[0],
            kernel=self.kernel,
            stride=self.stride,
            pixels=self.ofmap[1:],
            groups=self.groups,
        )


@dataclass(frozen=True)
class Network:
    """Layers in the order in which they run."""

    name: str
    layers: tuple[Layer, ...]

    @property
    def macs(self):
        """Multiplications of all dense layers."""
        return sum(layer.macs for layer in self.layers)

    @property
    def weights(self):
        """Weights of all layers."""
        return sum(layer.weights for layer in self.layers)


# ---- building
# --------------------------------------------------------------------------------------------------------


class _Builder:
    """Appends layers, works out their shapes, and refuses what cannot be."""

    def __init__(self, image=None):
        self.layers, self.shapes = [], {} if image is None else {IMAGE: tuple(image)}
        self.last = IMAGE

    def _append(self, name, op, inputs, ofmap, **fields):
        if name in self.shapes:
            raise NetworkError(f"layer {name!r} appears twice")
        ifmap = self.shapes[inputs[0]]
        self.layers.append(Layer(name=name, op=op, inputs=tuple(inputs), ifmap=ifmap, ofmap=ofmap, **fields))
        self.shapes[name], self.last = ofmap, name
        return name

    def _source(self, name, source):
        source = self.last if source is None else source
        if source not in self.shapes:
            raise NetworkError(f"layer {name!r} reads {source!r}, which is neither the image nor a layer before it")
        return source

    def tensor(self, name, shape):
        """A tensor that comes from memory."""
        self.shapes[name] = tuple(shape)
        return name

    def _windows(self, name, ifmap, kernel, stride, padding):
        sizes = []
        for what, extent, pad, size, step in zip(
            ("rows", "columns"),
            ifmap[1:],
            (padding[0] + padding[1], padding[2] + padding[3]),
            kernel,
            stride,
            strict=True,
        ):
            if size > extent + pad:
                raise NetworkError(
                    f"layer {name!r}: kernel of {size} {what} exceeds the padded input of {extent + pad}"
                )
            sizes.append((extent + pad - size) // step + 1)
        return tuple(sizes)

    def conv(self, name, out_channels, kernel=1, stride=1, padding=None, *, source=None, groups=1, compressed=True):
        """A convolution; ``padding`` keeps the size at stride 1 when None."""
        source = self._source(name, source)
        ifmap, kernel, stride = self.shapes[source], _pair(kernel), _pair(stride)
        for what, channels in (("input", ifmap[0]), ("output", out_channels)):
            if channels % groups:
                raise NetworkError(
                    f"layer {name!r}: {channels} {what} channels must be a multiple of groups = {groups}"
                )
        padding = (kernel[0] // 2,) * 2 + (kernel[1] // 2,) * 2 if padding is None else _sides(padding)
        ofmap = (out_channels, *self._windows(name, ifmap, kernel, stride, padding))
        fields = {"kernel": kernel, "stride": stride, "padding": padding, "groups": groups}
        compressed = compressed and groups == 1
        return self._append(name, "conv", [source], ofmap, **fields, compressed=compressed)

    def linear(self, name, out_features, *, source=None, compressed=True):
        """A linear layer over all values of its input."""
        source = self._source(name, source)
        size = self.shapes[source][1:]
        return self._append(name, "conv", [source], (out_features, 1, 1), kernel=size, compressed=compressed)

    def pool(self, name, kernel=None, stride=None, padding=0, *, source=None):
        """Windows of ``kernel``; the whole map when None."""
        source = self._source(name, source)
        ifmap = self.shapes[source]
        kernel = ifmap[1:] if kernel is None else _pair(kernel)
        stride = kernel if stride is None else _pair(stride)
        padding = _sides(padding)
        ofmap = (ifmap[0], *self._windows(name, ifmap, kernel, stride, padding))
        return self._append(name, "pool", [source], ofmap, kernel=kernel, stride=stride, padding=padding)

    def add(self, name, first, second):
        """Sum of two tensors of one shape."""
        first, second = self._source(name, first), self._source(name, second)
        if self.shapes[first] != self.shapes[second]:
            raise NetworkError(
                f"layer {name!r}: adds the shapes {self.shapes[first]} and {self.shapes[second]}, which differ"
            )
        return self._append(name, "add", [first, second], self.shapes[first])

    def network(self, name):
        """The network; the result of its last layer is wanted in full where that is a linear layer."""
        if self.layers and self.layers[-1].linear:
            self.layers[-1] = replace(self.layers[-1], raw=True)
        return Network(name, tuple(self.layers))


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def _sides(value):
    """(top, bottom, left, right) of an integer, (rows, columns), or all four."""
    value = _pair(value)
    return value if len(value) == 4 else (value[0], value[0], value[1], value[1])


# ---- the paper's five networks
# -------------------------------------------------------------------------------------
# First convolutions and last classifiers stay dense, as in algo.compress: the paper's FLOP counts show the former
# (mvq.md 1.9).


def _resnet(name, depths, bottleneck):
    """He et al. 2015, Tab. 1, at 224 px; the stride of a bottleneck lies in its 3x3 convolution, as in torchvision."""
    b = _Builder((3, 224, 224))
    b.conv("conv1", 64, 7, 2, compressed=False)
    tensor = b.pool("maxpool", 3, 2, 1)
    for stage, depth in enumerate(depths):
        width = 64 << stage
        out = width * 4 if bottleneck else width
        for block in range(depth):
            prefix, stride = f"layer{stage + 1}.{block}", 2 if stage and not block else 1
            shortcut = tensor
            if stride > 1 or b.shapes[tensor][0] != out:
                shortcut = b.conv(f"{prefix}.downsample", out, 1, stride, source=tensor)
            if bottleneck:
                b.conv(f"{prefix}.conv1", width, 1, source=tensor)
                b.conv(f"{prefix}.conv2", width, 3, stride)
                last = b.conv(f"{prefix}.conv3", out, 1)
            else:
                b.conv(f"{prefix}.conv1", width, 3, stride, source=tensor)
                last = b.conv(f"{prefix}.conv2", width, 3)
            tensor = b.add(f"{prefix}.add", last, shortcut)
    b.pool("avgpool")
    b.linear("fc", 1000, compressed=False)
    return b.network(name)


def _resnet18():
    return _resnet("resnet18", (2, 2, 2, 2), bottleneck=False)


def _resnet50():
    return _resnet("resnet50", (3, 4, 6, 3), bottleneck=True)


def _vgg16():
    """Simonyan and Zisserman 2014, Tab. 1, column D, at 224 px."""
    b = _Builder((3, 224, 224))
    for stage, (depth, channels) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
        for place in range(1, depth + 1):
            b.conv(f"conv{stage}_{place}", channels, 3, compressed=(stage, place) != (1, 1))
        b.pool(f"pool{stage}", 2)
    b.linear("fc6", 4096)
    b.linear("fc7", 4096)
    b.linear("fc8", 1000, compressed=False)
    return b.network("vgg16")


def _mobilenet_v1():
    """Howard et al. 2017, Tab. 1, width 1.0, at 224 px."""
    b = _Builder((3, 224, 224))
    b.conv("conv1", 32, 3, 2, compressed=False)
    blocks = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
    for number, (channels, stride) in enumerate(blocks, 1):
        before = b.shapes[b.last][0]
        b.conv(f"dw{number}", before, 3, stride, groups=before)
        b.conv(f"pw{number}", channels)
    b.pool("avgpool")
    b.linear("fc", 1000, compressed=False)
    return b.network("mobilenet_v1")


def _alexnet():
    """torchvision's AlexNet (Krizhevsky 2014, one column) at 224 px: the paper's 56.5 % (Tab. 4) is its accuracy."""
    b = _Builder((3, 224, 224))
    b.conv("conv1", 64, 11, 4, 2, compressed=False)
    b.pool("pool1", 3, 2)
    b.conv("conv2", 192, 5)
    b.pool("pool2", 3, 2)
    b.conv("conv3", 384, 3)
    b.conv("conv4", 256, 3)
    b.conv("conv5", 256, 3)
    b.pool("pool5", 3, 2)
    b.linear("fc6", 4096)
    b.linear("fc7", 4096)
    b.linear("fc8", 1000, compressed=False)
    return b.network("alexnet")


#: name -> function that makes the network.
NETWORKS = {
    "resnet18": _resnet18,
    "resnet50": _resnet50,
    "vgg16": _vgg16,
    "mobilenet_v1": _mobilenet_v1,
    "alexnet": _alexnet,
}


# ---- from graphs and files
# -----------------------------------------------------------------------------------------


def _three(shape):
    return tuple(shape) if len(shape) == 3 else (shape[0], 1, 1)


def _hands_on(node, graph):
    """True for a node that moves nothing: flatten, and zeros around an image that its readers add themselves."""
    if node.op != "pad" or any(node.attrs["channels"]):
        return node.op == "flatten"
    return all(user.op in ("conv", "avg_pool") for user in graph.users(node.name))


def from_graph(graph, compressed, name="network"):
    """Layer shapes of a :class:`golden.graph.Graph`.

    Parameters
    ----------
    graph : the operations. ``compressed`` : names of the layers that are stored as codebook indices.
    name : of the network.

    Returns
    -------
    Network
    """
    shapes, layers = graph.shapes(), []
    roots = {graph.input.name: (graph.input.name, (0, 0, 0, 0))}  # node -> where its values are, and zeros around them
    for node in graph.nodes[1:]:
        around = node.attrs.get("spatial", (0, 0, 0, 0))
        sources = [roots[source] for source in node.inputs]
        if _hands_on(node, graph):
            roots[node.name] = sources[0][0], tuple(a + b for a, b in zip(sources[0][1], around, strict=True))
            continue
        roots[node.name] = node.name, (0, 0, 0, 0)
        ifmap, ofmap = _three(shapes[sources[0][0]]), _three(shapes[node.name])
        fields = {}
        if "kernel" in node.attrs:
            padding = tuple(a + b for a, b in zip(sources[0][1], node.attrs["padding"], strict=True))
            fields = {key: tuple(node.attrs[key]) for key in ("kernel", "stride")} | {"padding": padding}
        elif node.op in ("linear", "global_avg_pool"):
            fields = {"kernel": ifmap[1:]}
        if node.op in WEIGHTED:
            fields |= {"groups": node.attrs.get("groups", 1), "compressed": node.name in compressed}
            fields["raw"] = node.name == graph.output
        op = {"conv": "conv", "linear": "conv", "add": "add"}.get(node.op, "pool" if fields else "move")
        inputs = tuple(IMAGE if source == graph.input.name else source for source, _ in sources)
        layers.append(Layer(name=node.name, op=op, inputs=inputs, ifmap=ifmap, ofmap=ofmap, **fields))
    return Network(name, tuple(layers))


def _schema():
    """pydantic model of a user's file; made when one is read, so that other commands start without pydantic."""
    from pydantic import BaseModel, ConfigDict, Field

    size = Annotated[int, Field(ge=1)]
    shape = tuple[size, size, size]
    pair = size | tuple[size, size]
    side = Annotated[int, Field(ge=0)]

    class Entry(BaseModel):
        model_config = ConfigDict(extra="forbid")
        name: Annotated[str, Field(min_length=1)]
        op: Literal["conv", "linear", "max_pool", "avg_pool", "global_avg_pool", "add"] = "conv"
        out_channels: size | None = None
        kernel: pair | None = None
        stride: pair | None = None
        padding: side | tuple[side, side] | tuple[side, side, side, side] = 0
        groups: size = 1
        inputs: list[str] | None = None
        input: shape | None = None
        compressed: bool | None = None

    class File(BaseModel):
        model_config = ConfigDict(extra="forbid")
        name: str | None = None
        image: shape | None = None
        layers: Annotated[list[Entry], Field(min_length=1)]

    return File


#: op -> fields that it needs, and those it may have besides name, op, inputs and input.
_FIELDS = {
    "conv": (("out_channels",), ("kernel", "stride", "padding", "groups", "compressed")),
    "linear": (("out_channels",), ("compressed",)),
    "max_pool": (("kernel",), ("stride", "padding")),
    "avg_pool": (("kernel",), ("stride", "padding")),
    "global_avg_pool": ((), ()),
    "add": (("inputs",), ()),
}


def _first_problem(error):
    """One clear sentence of pydantic's first error."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"] if not str(part).startswith(("constrained", "tuple", "int")))
    given = "" if problem["type"] == "missing" else f" = {problem['input']!r}"
    return f"{place}{given}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def read_network(path):
    """Read a network from a TOML or JSON file of layer shapes (module docstring).

    Raises
    ------
    NetworkError : the file cannot be read, or a layer cannot be; names file, layer, parameter and value.
    """
    from pydantic import ValidationError

    path = Path(path)
    try:
        text = path.read_text()
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise NetworkError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise NetworkError(f"{path}: is not valid {path.suffix[1:].upper()} ({error})") from error
    try:
        file = _schema().model_validate({"layers": content} if isinstance(content, list) else content)
    except ValidationError as error:
        raise NetworkError(f"{path}: {_first_problem(error)}") from error
    builder = _Builder(file.image)
    convolutions = [entry.name for entry in file.layers if entry.op == "conv"]
    linears = [entry.name for entry in file.layers if entry.op == "linear"]
    dense = {*convolutions[:1], *linears[-1:]}  # as algo.compress chooses
    try:
        for entry in file.layers:
            _add_entry(builder, entry, entry.name not in dense if entry.compressed is None else entry.compressed)
    except NetworkError as error:
        raise NetworkError(f"{path}: {error}") from error
    return builder.network(file.name or path.stem)


def _add_entry(builder, entry, compressed):
    needed, possible = _FIELDS[entry.op]
    for key in needed:
        if getattr(entry, key) is None:
            raise NetworkError(f"layer {entry.name!r}: {entry.op} needs {key!r}")
    for key in sorted(entry.model_fields_set - {"name", "op", "inputs", "input", *needed, *possible}):
        raise NetworkError(f"layer {entry.name!r}: {entry.op} has no {key!r}")
    if entry.input is not None:
        if entry.inputs is not None:
            raise NetworkError(f"layer {entry.name!r}: give either 'input' (a shape) or 'inputs' (names), not both")
        sources = [builder.tensor(f"{entry.name}.input", entry.input)]
    elif entry.inputs is None:
        if builder.last not in builder.shapes:
            raise NetworkError(f"layer {entry.name!r}: give the shape of its 'input', or that of the 'image'")
        sources = [builder.last]
    else:
        sources = entry.inputs
    count = 2 if entry.op == "add" else 1
    if len(sources) != count:
        raise NetworkError(f"layer {entry.name!r}: {entry.op} reads {count} tensors, not {len(sources)}")
    if entry.op == "conv":
        fields = (entry.kernel or 1, entry.stride or 1, entry.padding)
        builder.conv(
            entry.name,
            entry.out_channels,
            *fields,
            source=sources[0],
            groups=entry.groups,
            compressed=compressed,
        )
    elif entry.op == "linear":
        builder.linear(entry.name, entry.out_channels, source=sources[0], compressed=compressed)
    elif entry.op == "add":
        builder.add(entry.name, *sources)
    else:
        builder.pool(entry.name, entry.kernel, entry.stride, entry.padding, source=sources[0])


def load_network(source):
    """A network by name, from a file of layer shapes, or from a checkpoint's folder.

    Raises
    ------
    NetworkError, CheckpointError : it is none of them, or cannot be read.
    """
    text, path = str(source), Path(source)
    if text in NETWORKS:
        return NETWORKS[text]()
    if path.suffix in (".toml", ".json"):
        return read_network(path)
    if path.is_dir():
        from golden.checkpoint import Checkpoint, MvqLayer

        checkpoint = Checkpoint.load(path)
        stored = {name for name, layer in checkpoint.layers.items() if isinstance(layer, MvqLayer)}
        return from_graph(checkpoint.graph, stored, path.resolve().name)
    raise NetworkError(
        f"network = {text!r}: must be one of {', '.join(NETWORKS)}, a .toml or .json file of layer shapes, or the "
        "folder of a checkpoint"
    )
