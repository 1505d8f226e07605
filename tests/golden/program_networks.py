"""Networks with random weights, as graphs of the shapes that matter: a small random one, digits, ResNet-20,
EfficientNet-Lite0."""

import numpy as np

from golden import Calibration, Checkpoint, Codebook, DenseLayer, Graph, MvqLayer, Node
from golden.masks import encode_masks


class GraphBuilder:
    """Nodes one after another; every method returns the name of its node."""

    def __init__(self, shape):
        self.nodes, self.channels = [Node("image", "input", (), {"shape": list(shape)})], {"image": shape[0]}

    def add_node(self, op, sources, channels, /, **attrs):
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(Node(name, op, tuple(sources), attrs))
        self.channels[name] = channels
        return name

    def conv(self, source, channels, kernel=3, stride=1, padding=None, groups=1, activation="relu"):
        kernel = [kernel] * 2 if isinstance(kernel, int) else list(kernel)
        padding = [kernel[0] // 2, kernel[0] // 2, kernel[1] // 2, kernel[1] // 2] if padding is None else padding
        attrs = {"in_channels": self.channels[source], "out_channels": channels, "kernel": kernel, "groups": groups}
        stride = [stride] * 2
        return self.add_node(
            "conv", [source], channels, stride=stride, padding=list(padding), activation=activation, **attrs
        )

    def add(self, one, other, activation="relu"):
        return self.add_node("add", [one, other], self.channels[one], activation=activation)

    def pool(self, source, op="max_pool", kernel=2, stride=2, padding=0):
        attrs = {"kernel": [kernel] * 2, "stride": [stride] * 2, "padding": [padding] * 4}
        return self.add_node(op, [source], self.channels[source], **attrs)

    def mean(self, source):
        return self.add_node("global_avg_pool", [source], self.channels[source])

    def linear(self, source, features, inputs=None):
        flat = self.add_node("flatten", [source], self.channels[source])
        inputs = inputs or self.channels[source]
        return self.add_node("linear", [flat], features, in_features=inputs, out_features=features, activation="none")

    def graph(self):
        return Graph(self.nodes, self.nodes[-1].name)


def digits():
    """As algo.zoo.DigitsNet(residual=True)."""
    net = GraphBuilder((1, 8, 8))
    x = net.pool(net.conv(net.conv("image", 16), 32))
    x = net.conv(x, 64)
    x = net.add(x, net.conv(x, 64, activation="none"))
    net.linear(net.mean(x), 10)
    return net.graph()


def resnet20(widths=(16, 32, 64), blocks=3, size=32):
    """As algo.zoo.resnet20: shortcuts are slices of every other pixel and zero channels (option A)."""
    net = GraphBuilder((3, size, size))
    x = net.conv("image", widths[0])
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = net.conv(net.conv(x, width, stride=stride), width, activation="none")
            if stride == 2:
                before, extent = net.channels[x], size >> stage - 1
                cut = {"channels": [0, before, 1], "rows": [0, extent, 2], "columns": [0, extent, 2]}
                x = net.add_node("slice", [x], before, **cut)
                around = [(width - before) // 2, width - before - (width - before) // 2]
                x = net.add_node("pad", [x], width, channels=around, spatial=[0] * 4)
            x = net.add(y, x)
    net.linear(net.mean(x), 10)
    return net.graph()


#: expansion, channels, repeats, stride, kernel of each stage.
_LITE0 = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


def efficientnet_lite0(size=224, classes=1000):
    """EfficientNet-Lite0: padding as TensorFlow's "same"."""
    net = GraphBuilder((3, size, size))

    def conv(x, channels, kernel, stride, extent, **options):
        total = max((-(-extent // stride) - 1) * stride + kernel - extent, 0)
        before, after = total // 2, total - total // 2
        return net.conv(x, channels, kernel, stride, (before, after, before, after), **options), -(-extent // stride)

    x, size = conv("image", 32, 3, 2, size, activation="relu6")
    for expansion, channels, repeats, first_stride, kernel in _LITE0:
        for repeat in range(repeats):
            stride, before = first_stride if repeat == 0 else 1, x
            wide = net.channels[x] * expansion
            if expansion > 1:
                x = net.conv(x, wide, 1, activation="relu6")
            x, size = conv(x, wide, kernel, stride, size, groups=wide, activation="relu6")
            x = net.conv(x, channels, 1, activation="none")
            if stride == 1 and net.channels[before] == channels:
                x = net.add(x, before, activation="none")
    x = net.conv(x, 1280, 1, activation="relu6")
    net.linear(net.mean(x), classes)
    return net.graph()


def resnet18(size=224, classes=1000):
    """ResNet-18 of ImageNet."""
    net = GraphBuilder((3, size, size))
    x = net.pool(net.conv("image", 64, 7, 2), kernel=3, padding=1)
    for stage, width in enumerate((64, 128, 256, 512)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            y = net.conv(net.conv(x, width, stride=stride), width, activation="none")
            if stride == 2:
                x = net.conv(x, width, 1, 2, activation="none")
            x = net.add(y, x)
    net.linear(net.mean(x), classes)
    return net.graph()


def random_graph(rng):
    """A dozen operations, every kind now and then."""
    size = [int(n) for n in rng.integers(5, 14, 2)]
    net = GraphBuilder((int(rng.integers(1, 7)), *size))
    shapes = lambda name: Graph(net.nodes, net.nodes[-1].name).shapes()[name]  # noqa: E731

    def pick(*choices):
        return choices[rng.integers(len(choices))]

    x = net.conv("image", int(rng.integers(3, 24)), pick(1, 3, 5), pick(1, 1, 2)) if rng.random() < 0.7 else "image"
    for _ in range(rng.integers(4, 10)):
        channels, rows, columns = shapes(x)
        smallest = min(rows, columns)
        match pick("conv", "conv", "depthwise", "residual", "shortcut", "pool", "pad", "slice", "twice", "activation"):
            case "conv":
                kernel = (int(rng.integers(1, min(rows, 4) + 1)), int(rng.integers(1, min(columns, 4) + 1)))
                groups = pick(1, 1, *(g for g in (2, 3) if channels % g == 0))
                wide = int(rng.integers(1, 12)) * groups
                padding = [int(rng.integers(0, k)) for k in (kernel[0], kernel[0], kernel[1], kernel[1])]
                x = net.conv(x, wide, kernel, pick(1, 1, 2), padding, groups, pick("none", "relu", "relu6"))
            case "depthwise":
                x = net.conv(x, channels * pick(1, 1, 2), pick(1, 3, 5), pick(1, 1, 2), groups=channels)
            case "residual":
                y = net.conv(net.conv(x, 9), channels, activation="none")
                x = net.add(*pick((x, y), (y, x)), activation=pick("none", "relu"))
            case "shortcut":
                y = net.conv(x, channels, activation="none")
                x = net.add(net.conv(x, channels, 1, activation="none"), y) if rng.random() < 0.5 else net.add(x, y)
            case "pool" if smallest > 2:
                padding = pick(0, 1)
                x = (
                    net.pool(x, kernel=3, stride=pick(1, 2), padding=padding)
                    if rng.random() < 0.5
                    else net.pool(x, "avg_pool", stride=pick(1, 2))
                )
            case "pad":
                spatial = [int(n) for n in rng.integers(0, 3, 4)]
                around = [int(n) for n in rng.integers(0, 9, 2)] if rng.random() < 0.5 else [0, 0]
                x = net.add_node("pad", [x], channels + sum(around), channels=around, spatial=spatial)
            case "slice" if smallest > 3:
                ranges = [[int(rng.integers(0, 2)), extent, pick(1, 2)] for extent in (rows, columns)]
                first = int(rng.integers(0, channels))
                kept = pick([0, channels, 1], [first, channels, 1], [0, channels, 2])
                x = net.add_node("slice", [x], len(range(*kept)), channels=kept, rows=ranges[0], columns=ranges[1])
                if rng.random() < 0.5:
                    x = net.add_node("pad", [x], len(range(*kept)) + 4, channels=[1, 3], spatial=[0] * 4)
            case "twice":
                x = net.add(x, x, activation="none")
            case "activation":
                x = net.add_node("activation", [x], channels, kind=pick("relu", "relu6"))
    if x == "image":
        x = net.conv(x, 5)
    shape = shapes(x)
    if max(shape[1:]) <= 7 and rng.random() < 0.7:
        net.linear(x, int(rng.integers(1, 40)), int(np.prod(shape)))
    elif rng.random() < 0.7:
        net.linear(net.mean(x), int(rng.integers(1, 40)))
    return net.graph()


def random_checkpoint(graph, rng, *, d=16, n=4, m=16, codewords=16, compressed=0.5, shared=0.5):
    """Random weights: a part of the ungrouped layers compressed, some of them on one codebook.

    Returns
    -------
    (Checkpoint, Calibration) in which every layer's results spread over the int8 values.
    """
    layers, common = {}, None
    for node in graph.layers:
        shape = node.weight_shape
        spread = 4 / 127 * 74 * 40 * np.sqrt(np.prod(shape[1:]))  # of sums in real units, for inputs of +-40
        affine = {
            "channel_scale": (rng.uniform(0.5, 1.5, shape[0]) / spread * rng.choice([-1, 1], shape[0])).astype("f4"),
            "channel_bias": rng.normal(0, 0.5, shape[0]).astype(np.float32),
        }
        if node.attrs.get("groups", 1) > 1 or rng.random() >= compressed:
            weight = rng.integers(-127, 128, shape).astype(np.int8)
            layers[node.name] = DenseLayer(weight=weight, **affine)
            continue
        book = common
        if book is None or rng.random() >= shared:
            book = Codebook(node.name, rng.integers(-128, 128, (codewords, d)).astype(np.int8), np.float32(0.01))
            common = common or book
        count = -(-shape[0] // d) * int(np.prod(shape[1:]))
        codes = None
        if n < m:
            codes = encode_masks(np.argsort(rng.random((count, d // m, m)), axis=-1) < n, n)
        index = rng.integers(0, codewords, count).astype(np.uint32)
        layers[node.name] = MvqLayer(codebook=book, index=index, mask_codes=codes, n=n, m=m, **affine)
    return Checkpoint(graph, layers, {}, {}), Calibration({node.name: 4.0 for node in graph.nodes})
