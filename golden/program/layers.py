"""From a graph to what the accelerator runs, layer by layer: convolutions and vector operations over tensors.

* A convolution or linear layer whose only user is an ``add`` or ``activation`` does that itself (rescale, residual).
  Not where the other operand is also what the convolution reads: one bank of L1 cannot serve both in one cycle.
* A linear layer reads the tensor in front of ``flatten``, as a convolution with a kernel of the image's size.
* ``pad`` without channels goes into the convolutions and average pools that read it; elsewhere it is a copy.
* ``slice`` and ``pad`` that move channels are a convolution with weights of 1, on the array, one for both.
* The first layer reads patches of the image, with its kernel's taps as channels, where that needs fewer cycles.
"""

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from golden import integer
from golden.graph import WEIGHTED
from golden.integer import Requantisation
from golden.lower import LoweringError
from golden.program.tiling import TILES, WHOLE, tilings
from golden.schedule import LayerShape
from golden.stream import WeightImage

__all__ = ["InputLayout", "Layer", "NetworkLayers", "Tensor", "network_layers"]


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor (channels, rows, columns) in planes of V channels; ``raw`` : of int32 instead of int8."""

    name: str
    channels: int
    rows: int
    columns: int
    raw: bool = False

    @property
    def pixels(self):
        """Pixels of a plane."""
        return self.rows * self.columns

    @property
    def pixel_vectors(self):
        """Vectors of a pixel in a plane."""
        return 4 if self.raw else 1

    def groups(self, config):
        """Planes."""
        return -(-self.channels // config.vector_bytes)

    def plane_words(self, config):
        """L1 words of a plane."""
        return -(-self.pixels * self.pixel_vectors // config.word_vectors)

    def words(self, config):
        """L1 words of all planes."""
        return self.groups(config) * self.plane_words(config)

    def word_beats(self, config):
        """Beats of an L1 word in memory, which leaves out the channels that a single plane does not have."""
        if config.word_vectors > 1 or self.raw or self.channels > config.vector_bytes:
            return config.word_beats
        return -(-self.channels // config.bus_bytes)

    def beats(self, config):
        """Beats of all planes in memory."""
        return self.words(config) * self.word_beats(config)


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer:
    """One convolution or vector operation.

    Parameters
    ----------
    name : the layer, for errors. ``source``, ``residual`` : names of the tensors it reads. ``result`` : its tensor.
    kernel, stride : (rows, columns). ``padding`` : (top, left); the size of the result says the rest.
    offset : (row, column) of the source at which it begins.
    maximum : of a window, instead of the sum.
    rescale, residual_rescale : :class:`~golden.integer.Requantisation`, or None.
    shape : :class:`~golden.schedule.LayerShape` of a convolution, None of a vector operation. ``image`` :
        :class:`~golden.stream.WeightImage`. ``diagonal`` : as :func:`golden.schedule.schedule` has it.
    """

    name: str
    source: str
    result: Tensor
    residual: str | None = None
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    offset: tuple[int, int] = (0, 0)
    maximum: bool = False
    rescale: Requantisation | None = None
    residual_rescale: Requantisation | None = None
    shape: LayerShape | None = None
    image: WeightImage | None = None
    diagonal: bool = False

    @property
    def conv(self):
        """True for a convolution."""
        return self.shape is not None

    @property
    def channelwise(self):
        """True when a plane of the result needs only the same plane of the source."""
        return not self.conv or self.shape.groups == self.shape.in_channels == self.shape.out_channels > 1

    @property
    def compressed(self):
        """True when the weights are codebook indices."""
        return self.conv and self.image.entries is not None

    @property
    def reads(self):
        """Names of the tensors that it reads."""
        return (self.source,) if self.residual is None else (self.source, self.residual)


@dataclass(frozen=True, kw_only=True)
class InputLayout:
    """How the network's input lies in memory: as it is, or in patches for a first layer of few channels.

    A patch holds ``patch_rows`` rows and all columns of the layer's kernel as channels (row, column, c), c fastest. The
    layer then has a kernel of :attr:`taps` x 1.

    Parameters
    ----------
    shape : (C, H, W). ``kernel``, ``stride`` : (rows, columns) of the layer. ``padding`` : [top, bottom, left, right].
    patch_rows : 0 for the image as it is, else the kernel's rows or a divisor of the row stride.
    """

    shape: tuple[int, int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    patch_rows: int = 0

    @property
    def taps(self):
        """Patches above each other that the layer sees at once."""
        return -(-self.kernel[0] // self.patch_rows)

    @property
    def row_stride(self):
        """Patches from one ofmap row to the next."""
        return 1 if self.taps == 1 else self.stride[0] // self.patch_rows

    def tensor(self, name):
        """:class:`Tensor` of this layout."""
        channels, *pixels = self.shape
        if self.patch_rows:
            channels *= self.patch_rows * self.kernel[1]
            sides = zip(pixels, self.padding[::2], self.padding[1::2], self.kernel, self.stride, strict=True)
            pixels = [(size + before + after - kernel) // stride + 1 for size, before, after, kernel, stride in sides]
            pixels[0] = (pixels[0] - 1) * self.row_stride + self.taps
        return Tensor(name=name, channels=channels, rows=pixels[0], columns=pixels[1])

    def arrange(self, x):
        """int8 (C', Y, X) from ``x`` (C, H, W)."""
        if not self.patch_rows:
            return x
        rows, advance = self.tensor("").rows, self.stride[0] // self.row_stride
        padded = integer.pad(x[None], self.padding)[0]
        missing = (rows - 1) * advance + self.patch_rows - padded.shape[1]
        padded = np.pad(padded, ((0, 0), (0, max(0, missing)), (0, 0)))
        windows = sliding_window_view(padded, (self.patch_rows, self.kernel[1]), axis=(1, 2))
        windows = windows[:, ::advance, :: self.stride[1]][:, :rows]
        return windows.transpose(3, 4, 0, 1, 2).reshape(-1, *windows.shape[1:3])

    def arrange_weights(self, weights):
        """(..., C', taps, 1) from weights (..., C, kh, kw), for any one axis in front."""
        missing = self.taps * self.patch_rows - self.kernel[0]
        weights = np.pad(weights, ((0, 0), (0, 0), (0, missing), (0, 0)))
        count, channels = weights.shape[:2]
        weights = weights.reshape(count, channels, self.taps, self.patch_rows, -1)
        return weights.transpose(0, 3, 4, 1, 2).reshape(count, -1, self.taps, 1)


@dataclass(frozen=True, eq=False)
class NetworkLayers:
    """A network as layers.

    Parameters
    ----------
    layers : :class:`Layer` in order. ``tensors`` : name -> :class:`Tensor`.
    tensor_of : node of the graph -> name of the tensor that holds its value; nodes inside a layer have none.
    input_layout : :class:`InputLayout`; its tensor has the input node's name.
    """

    layers: list[Layer]
    tensors: dict[str, Tensor]
    tensor_of: dict[str, str]
    input_layout: InputLayout
    output: str = field(default="")


def network_layers(lowered, config):
    """:class:`NetworkLayers` of a :class:`~golden.lower.LoweredNetwork` on ``config``; raises LoweringError."""
    return _Builder(lowered, config).build()


def _moves_nothing(node, shape):
    if node.op == "pad":
        return not any(node.attrs["channels"]) and not any(node.attrs["spatial"])
    ranges = (node.attrs[key] for key in ("channels", "rows", "columns"))
    return node.op == "slice" and all(list(r) == [0, size, 1] for r, size in zip(ranges, shape, strict=True))


class _Builder:
    def __init__(self, lowered, config):
        self.lowered, self.config = lowered, config
        self.network, self.graph = lowered.network, lowered.network.graph
        self.shapes = self.graph.shapes()
        self.layers, self.tensors, self.tensor_of = [], {}, {}
        self.position = {node.name: i for i, node in enumerate(self.graph.nodes)}
        #: nodes without a value of their own: they hand on that of their input, perhaps with padding.
        self.transparent = {node.name for node in self.graph.nodes if self._is_transparent(node)}
        self.fused = self._fusions()
        self.inside = set(self.fused.values())
        self.input_layout = None

    def build(self):
        first = self.graph.input
        self.input_layout = self._input_layout()
        self._new(self.input_layout.tensor(first.name))
        for node in self.graph.nodes[1:]:
            if node.name not in self.inside:
                getattr(self, f"_{node.op}")(node)
        output = self.tensor_of.get(self.graph.output)
        if output is None or output == first.name:
            raise LoweringError(self.graph.output, "is the network's input as it is", "a layer in between")
        for layer in self.layers:
            self._check_limits(layer)
        return NetworkLayers(self.layers, self.tensors, self.tensor_of, self.input_layout, output)

    # ---- which nodes become one layer
    # ----------------------------------------------------------------------------------

    def _is_transparent(self, node):
        if node.op == "flatten":
            return True
        if node.op not in ("pad", "slice"):
            return False
        if _moves_nothing(node, self.shapes[node.inputs[0]]):
            return True
        users = self.graph.users(node.name)
        spatial = node.op == "pad" and not any(node.attrs["channels"])
        fits = spatial and max(node.attrs["spatial"]) < 1 << 7
        return bool(fits and users and all(user.op in ("conv", "avg_pool") for user in users))

    def _root(self, name):
        """(node whose value ``name`` hands on, padding [top, bottom, left, right] on the way)."""
        padding = np.zeros(4, int)
        while name in self.transparent:
            node = self.graph[name]
            padding += node.attrs.get("spatial", [0] * 4)
            name = node.inputs[0]
        return name, [int(value) for value in padding]

    def _readers(self, name):
        """Nodes that read the value of ``name``, directly or through transparent nodes."""
        readers = []
        for user in self.graph.users(name):
            readers += self._readers(user.name) if user.name in self.transparent else [user]
        return readers

    def _fusions(self):
        """Node -> the node before it that becomes part of its layer."""
        fused = {}
        for node in self.graph.nodes:
            candidates = sorted(node.inputs, key=self.position.get, reverse=True)
            if node.op == "pad" and not any(node.attrs["spatial"]) and node.name not in self.transparent:
                candidates = [name for name in candidates if self.graph[name].op == "slice"]
            elif node.op in ("add", "activation"):
                candidates = [name for name in candidates if self.graph[name].op in WEIGHTED]
            else:
                continue
            for name in candidates:
                others = [self._root(other)[0] for other in node.inputs if other != name]
                alone = len(self.graph.users(name)) == 1 and list(node.inputs).count(name) == 1
                if alone and name not in self.transparent and self._root(self.graph[name].inputs[0])[0] not in others:
                    fused[node.name] = name
                    break
        return fused

    def _input_layout(self):
        """Patches where the first layer is alone in reading the input, and faster with them."""
        first = self.graph.input
        shape = self.shapes[first.name]
        plain = InputLayout(shape=shape)
        readers = self._readers(first.name)
        if len(readers) != 1 or readers[0].op not in WEIGHTED or readers[0].attrs.get("groups", 1) > 1:
            return plain
        node, compressed = readers[0], self.lowered.layers[readers[0].name].compressed
        kernel, stride = (node.attrs.get(key, default) for key, default in (("kernel", shape[1:]), ("stride", (1, 1))))
        fields = {"kernel": tuple(kernel), "stride": tuple(stride), "padding": tuple(self._padding(node))}
        limit = self._limit("tap_rows")
        layouts = [] if max(kernel) > limit else [plain]
        for rows in {kernel[0], *(rows for rows in range(1, stride[0] + 1) if stride[0] % rows == 0)}:
            # indices of a codebook have no zero to fill the last patch of rows with
            if -(-kernel[0] // rows) <= limit and not (compressed and kernel[0] % rows):
                layouts.append(InputLayout(shape=shape, patch_rows=rows, **fields))

        def cost(layout):
            source = layout.tensor(first.name)
            layer = self._weighted(node, self._result(node), source, layout)
            modes = [[WHOLE, TILES], [None], [WHOLE, TILES]]
            ways = tilings(layer, source, None, modes, self.config, stored=False)
            return min((way.cost for way in ways if sum(way.words) <= self.config.l1_words), default=math.inf)

        return min(layouts, key=cost)

    # ---- one method for each operation of the graph
    # --------------------------------------------------------------------

    def _new(self, tensor, *nodes):
        self.tensors[tensor.name] = tensor
        for name in (tensor.name, *nodes):
            self.tensor_of[name] = tensor.name

    def _result(self, node, raw=False):
        shape = self.shapes[node.name]
        channels, rows, columns = shape if len(shape) == 3 else (*shape, 1, 1)
        return Tensor(name=node.name, channels=channels, rows=rows, columns=columns, raw=raw)

    def _append(self, layer):
        self.layers.append(layer)
        self._new(layer.result)

    def _source(self, name):
        """(tensor that holds the value of node ``name``, padding)."""
        root, padding = self._root(name)
        return self.tensors[self.tensor_of[root]], padding

    def _hand_on(self, node):
        root, padding = self._root(node.name)
        if not any(padding):
            self.tensor_of[node.name] = self.tensor_of[root]

    def _padding(self, node):
        """[top, bottom, left, right] of a convolution or linear layer, with that of pads in front of it."""
        _, padding = self._root(node.inputs[0])
        return [a + b for a, b in zip(padding, node.attrs.get("padding", [0] * 4), strict=True)]

    def _weighted(self, node, result, source, layout, **after):
        """:class:`Layer` of a convolution or linear layer on the tensor ``source``; ``layout`` is that of the network's
        input."""
        lowered, padding = self.lowered.layers[node.name], self._padding(node)
        shape, image = lowered.shape, lowered.image
        channels = shape.in_channels
        if source.name == self.graph.input.name and layout.patch_rows:
            if node.op == "linear":
                channels = layout.shape[0]
                image = image.rearranged(shape.in_channels, lambda w: w.reshape(len(w), *layout.shape))
            image = image.rearranged(channels, layout.arrange_weights)
            kernel, stride = (layout.taps, 1), (layout.row_stride, 1)
            shape = dataclasses.replace(shape, in_channels=source.channels, kernel=kernel, stride=stride)
            padding = [0] * 4
        elif node.op == "linear" and source.pixels > 1:
            kernel = (source.rows, source.columns)
            image = image.rearranged(channels, lambda w: w.reshape(len(w), source.channels, *kernel))
            shape = dataclasses.replace(shape, in_channels=source.channels, kernel=kernel)
        depthwise = shape.groups == shape.in_channels == shape.out_channels > 1
        return Layer(
            name=node.name,
            source=source.name,
            result=result,
            kernel=shape.kernel,
            stride=shape.stride,
            padding=(padding[0], padding[2]),
            shape=shape,
            image=image,
            diagonal=depthwise and self.config.array.tile == "sparse",
            **after,
        )

    def _append_weighted(self, node, result, **after):
        source = self.tensors[self.tensor_of[self._root(node.inputs[0])[0]]]
        self._append(self._weighted(node, result, source, self.input_layout, **after))

    def _conv(self, node):
        self._append_weighted(node, self._result(node, raw=self.network.layers[node.name].raw))

    _linear = _conv

    def _activation(self, node):
        rescale = self.network.rescales[node.name][0]
        if node.name in self.fused:
            self._append_weighted(self.graph[self.fused[node.name]], self._result(node), rescale=rescale)
            return
        source, _ = self._source(node.inputs[0])
        result = dataclasses.replace(source, name=node.name)
        self._append(Layer(name=node.name, source=source.name, result=result, rescale=rescale))

    def _add(self, node):
        rescales = dict(zip(range(2), self.network.rescales[node.name], strict=True))
        first = int(node.name in self.fused and node.inputs[1] == self.fused[node.name])
        residual, _ = self._source(node.inputs[1 - first])
        rescale = dataclasses.replace(rescales[first], low=rescales[0].low, high=rescales[0].high)
        after = {"rescale": rescale, "residual": residual.name, "residual_rescale": rescales[1 - first]}
        if node.name in self.fused:
            self._append_weighted(self.graph[self.fused[node.name]], self._result(node), **after)
            result = self.layers[-1].result
        else:
            source, _ = self._source(node.inputs[0])
            if source == residual:  # one bank cannot serve both, so a copy stands in for one of them
                copy = dataclasses.replace(source, name=f"{node.name}.copy")
                self._append(Layer(name=node.name, source=source.name, result=copy))
                source = copy
            result = dataclasses.replace(source, name=node.name)
            self._append(Layer(name=node.name, source=source.name, result=result, **after))
        if (result.channels, result.rows, result.columns) != (residual.channels, residual.rows, residual.columns):
            raise LoweringError(node.name, "adds a flattened image to features", "to flatten after the addition")

    def _pool(self, node, kernel, stride=(1, 1), **fields):
        source, padding = self._source(node.inputs[0])
        own = node.attrs.get("padding", [0] * 4)
        self._append(
            Layer(
                name=node.name,
                source=source.name,
                result=self._result(node),
                kernel=tuple(kernel),
                stride=tuple(stride),
                padding=(padding[0] + own[0], padding[2] + own[2]),
                **fields,
            )
        )

    def _max_pool(self, node):
        self._pool(node, node.attrs["kernel"], node.attrs["stride"], maximum=True)

    def _avg_pool(self, node):
        rescale = self.network.rescales[node.name][0]
        self._pool(node, node.attrs["kernel"], node.attrs["stride"], rescale=rescale)

    def _global_avg_pool(self, node):
        self._pool(node, self.shapes[node.inputs[0]][1:], rescale=self.network.rescales[node.name][0])

    def _flatten(self, node):
        self._hand_on(node)

    def _pad(self, node):
        self._move(node)

    def _slice(self, node):
        self._move(node)

    def _move(self, node):
        """A pad, a slice, or a slice and the pad behind it."""
        if node.name in self.transparent:
            self._hand_on(node)
            return
        before = self.graph[self.fused[node.name]] if node.name in self.fused else node
        source, _ = self._source(before.inputs[0])
        channels, rows, columns = range(source.channels), (0, 1), (0, 1)
        if before.op == "slice":
            channels = range(*before.attrs["channels"])
            rows, columns = (before.attrs[key][::2] for key in ("rows", "columns"))
        padding, around = [0] * 4, [0, 0]
        if node.op == "pad":
            padding, around = node.attrs["spatial"], node.attrs["channels"]
        sources = (*[-1] * around[0], *channels, *[-1] * around[1])
        result = self._result(node)
        fields = {
            "name": node.name,
            "source": source.name,
            "result": result,
            "stride": (rows[1], columns[1]),
            "offset": (rows[0], columns[0]),
            "padding": (padding[0], padding[2]),
        }
        if sources == tuple(range(source.channels)):
            self._append(Layer(**fields))
            return
        weight = np.zeros((len(sources), source.channels, 1, 1), np.int8)
        moved = [out for out, channel in enumerate(sources) if channel >= 0]
        weight[moved, [sources[out] for out in moved]] = 1
        zeros = np.zeros(len(sources), np.int64)
        same = Requantisation(zeros, zeros + 2, zeros, zeros, -128, 127)  # 64 / 64 of the sum
        shape = LayerShape(
            name=node.name,
            out_channels=len(sources),
            in_channels=source.channels,
            stride=fields["stride"],
            pixels=(result.rows, result.columns),
            sources=sources,
        )
        image = WeightImage(self.config.array, weight, requantisation=same)
        self._append(Layer(**fields, shape=shape, image=image))

    # ---- limits of the formats
    # -----------------------------------------------------------------------------------------

    def _limit(self, name):
        widths = {**dict(self.config.subset_fields), **dict(self.config.compute_fields)}
        return (1 << widths[name]) - 1

    def _check_limits(self, layer):
        kernel = ("tap_rows", "tap_columns") if layer.conv else ("kernel_rows", "kernel_columns")
        source, result = self.tensors[layer.source], layer.result
        for what, values, names in (
            ("a kernel", layer.kernel, kernel),
            ("a stride", layer.stride, ("stride_y", "stride_x")),
            ("padding", layer.padding, ("pad_top", "pad_left")),
            ("an input", (source.rows, source.columns), ("ifmap_rows", "ifmap_columns")),
            ("a result", (result.rows, result.columns), ("ofmap_rows", "ofmap_columns")),
            ("channel groups", (result.groups(self.config),), ("ofmap_groups",)),
        ):
            limits = [self._limit(name) for name in names]
            if any(value > limit for value, limit in zip(values, limits, strict=True)):
                shown, legal = (" x ".join(map(str, numbers)) for numbers in (values, limits))
                raise LoweringError(layer.name, f"has {what} of {shown}", f"up to {legal}")
