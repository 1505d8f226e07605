"""Compression of ResNet-18 by the paper's eq. 7, from its layer table, beside what the paper says.

    python benchmarks/compression_ratio.py [--codewords 256,512,1024] [--json FILE]

4:16 masks, d = 16, an 8-bit codebook for each of the 19 compressed convolutions, counted as a checkpoint counts them.
``convolutions`` : those alone. ``with conv1 and BN`` : also the first convolution and the normalisation, in float32 on
both sides. The classifier is in neither: only so does the paper's number come out.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from golden import Checkpoint, Codebook, Graph, MvqLayer, Node
from golden.checkpoint import FLOAT_BITS
from golden.files import write_text
from golden.networks import NETWORKS

#: codewords -> ratio in the paper: "about 22x" (section 6.2), and the ends of Fig. 13's axis.
PAPER = {512: "~22x", 1024: "20x", 256: "25x"}


def stored_bits(layer, codewords):
    """Bits of a compressed convolution (:class:`golden.networks.Layer`) in a checkpoint, by part."""
    out_channels, attrs = layer.ofmap[0], {"groups": 1, "stride": list(layer.stride), "activation": "none"}
    attrs |= {"in_channels": layer.ifmap[0], "out_channels": out_channels, "kernel": list(layer.kernel)}
    image = Node("image", "input", (), {"shape": list(layer.ifmap)})
    node = Node(layer.name, "conv", ("image",), {**attrs, "padding": list(layer.padding)})
    vectors = layer.weights // 16
    stored = MvqLayer(
        codebook=Codebook(layer.name, np.zeros((codewords, 16), np.int8), np.float32(1)),
        index=np.zeros(vectors, np.uint32),
        mask_codes=np.zeros((vectors, 1), np.uint16),
        n=4,
        m=16,
        channel_scale=np.ones(out_channels, np.float32),
        channel_bias=np.zeros(out_channels, np.float32),
    )
    return Checkpoint(Graph([image, node], layer.name), {layer.name: stored}).layer_bits(layer.name)


def ratios(codewords):
    """(ratio of the compressed convolutions, ratio with conv1 and normalisation, weights that are compressed)."""
    layers = [layer for layer in NETWORKS["resnet18"]().layers if layer.op == "conv" and not layer.linear]
    bits = [stored_bits(layer, codewords) for layer in layers if layer.compressed]
    weights = sum(part["weights"] for part in bits)
    packed = sum(part["assignments"] + part["masks"] + part["codebook"] for part in bits)
    first = sum(layer.weights for layer in layers if not layer.compressed)
    others = FLOAT_BITS * (first + 2 * sum(layer.ofmap[0] for layer in layers))
    return FLOAT_BITS * weights / packed, (FLOAT_BITS * weights + others) / (packed + others), weights


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codewords", default="256,512,1024")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    table = Table(title="ResNet-18, 4:16, d = 16: compression by eq. 7")
    for heading in ("k", "convolutions", "with conv1 and BN", "paper"):
        table.add_column(heading, justify="right")
    for codewords in map(int, arguments.codewords.split(",")):
        convolutions, everything, weights = ratios(codewords)
        row = {
            "codewords": codewords,
            "weights": weights,
            "convolutions": convolutions,
            "with_conv1_and_bn": everything,
        }
        rows.append({**row, "paper": PAPER.get(codewords)})
        table.add_row(str(codewords), f"{convolutions:.1f}x", f"{everything:.1f}x", PAPER.get(codewords, ""))
    Console().print(table)
    if arguments.json:
        write_text(arguments.json, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
