"""Run a :class:`golden.graph.Graph` in torch, node by node, for the compressed and the integer network."""

import torch.nn.functional as F

__all__ = ["activate", "convolve", "evaluate", "max_pool", "structural"]


def activate(x, kind):
    """``x`` after "none", "relu" or "relu6"."""
    if kind == "relu":
        return F.relu(x)
    return F.relu6(x) if kind == "relu6" else x


def _pad(x, sides, value=0.0):
    """``x`` padded by [top, bottom, left, right] pixels."""
    top, bottom, left, right = sides
    return F.pad(x, (left, right, top, bottom), value=value) if any(sides) else x


def convolve(x, weight, node):
    """The sums of a conv or linear node, without scale, bias or activation."""
    if node.op == "linear":
        return F.linear(x, weight)
    top, bottom, left, right = node.attrs["padding"]
    stride, groups = node.attrs["stride"], node.attrs["groups"]
    if (top, left) == (bottom, right):
        return F.conv2d(x, weight, None, stride, (top, left), 1, groups)
    return F.conv2d(_pad(x, (top, bottom, left, right)), weight, None, stride, 0, 1, groups)


def max_pool(x, node, lowest):
    """Maximum of each window; pixels of the padding count as ``lowest``."""
    return F.max_pool2d(_pad(x, node.attrs["padding"], lowest), node.attrs["kernel"], node.attrs["stride"])


def structural(x, node):
    """A flatten, pad or slice node."""
    if node.op == "flatten":
        return x.flatten(1)
    if node.op == "pad":
        top, bottom, left, right = node.attrs["spatial"]
        front, back = node.attrs["channels"]
        return F.pad(x, (left, right, top, bottom, front, back))
    channels, rows, columns = (slice(*node.attrs[key]) for key in ("channels", "rows", "columns"))
    return x[:, channels, rows, columns]


def evaluate(graph, x, layer, observe=None):
    """The float output of a network.

    Parameters
    ----------
    graph : what to run.
    x : float (N, C, H, W).
    layer : ``layer(node, x)`` gives the result of a conv or linear node before its activation.
    observe : called with (node, result) after every node; a result that it returns replaces the node's.

    Returns
    -------
    The value of the output node, (N, ...).
    """

    def compute(node, *inputs):
        if node.op == "input":
            value = x
        elif node.op in ("conv", "linear"):
            value = layer(node, inputs[0])
        elif node.op == "add":
            value = inputs[0] + inputs[1]
        elif node.op == "activation":
            value = inputs[0]
        elif node.op == "max_pool":
            value = max_pool(inputs[0], node, -float("inf"))
        elif node.op == "avg_pool":
            value = F.avg_pool2d(inputs[0], node.attrs["kernel"], node.attrs["stride"])
        elif node.op == "global_avg_pool":
            value = inputs[0].mean((2, 3), keepdim=True)
        else:
            value = structural(inputs[0], node)
        value = activate(value, node.activation)
        replaced = None if observe is None else observe(node, value)
        return value if replaced is None else replaced

    return graph.run(compute, keep=False)[graph.output]
