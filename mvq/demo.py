"""The main job, end to end: train, compress, fine-tune, lower, generate, simulate, and compare areas, on handwritten
digits."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from golden.files import replacing, write_text
from hdl.config import VARIANTS, preset
from mvq.generate import write_design
from mvq.tables import compression_table

__all__ = ["DemoSettings", "run_demo"]


class DemoSettings:
    """What the demo runs; one place for its numbers."""

    array = ("ews-cms", 16)
    digits = 24  # held-out digits that the Verilog classifies
    codewords = 64
    finetune_epochs = 8
    finetune_rate = 3e-3
    calibration_images = 256
    liberty = "nangate45"


class _Steps:
    """Progress on screen, and the seconds that each step took."""

    def __init__(self, console):
        self.console, self.seconds = console, {}
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<46}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=console,
        )

    @contextmanager
    def step(self, name):
        """Time a step; yields a function (anything, done, total) that moves its bar."""
        task = self.progress.add_task(name, total=None)
        start = time.monotonic()
        yield lambda *where: self.progress.update(task, completed=where[-2], total=where[-1])
        self.seconds[name] = round(time.monotonic() - start, 1)
        self.progress.update(task, completed=1, total=1)
        self.progress.stop_task(task)
        if not self.console.is_terminal:
            self.console.print(f"{name}: {self.seconds[name]} s")


def _learn(steps, settings, out):
    """Train, compress, fine-tune and save; returns the data, the network, its checkpoint, and what happened to the
    accuracy."""
    import torch

    from algo import zoo
    from algo.compress import CompressSettings, compress, report
    from algo.finetune import FinetuneSettings, finetune

    torch.set_num_threads(1)  # the other core compiles the Verilog; two threads would wait for each other
    torch.manual_seed(0)
    data = zoo.digits()
    train_x, train_y, test_x, test_y = data
    accuracy = {}
    with steps.step("train a CNN on handwritten digits") as progress:
        network = zoo.train(zoo.DigitsNet(residual=True), train_x, train_y, progress=progress)
        accuracy["float"] = zoo.accuracy(network, test_x, test_y)
    with steps.step("prune 4:16 and cluster (masked k-means)") as progress:
        compressed = compress(
            network, tuple(train_x.shape[1:]), CompressSettings(codewords=settings.codewords), progress=progress
        )
        accuracy["compressed"] = zoo.accuracy(compressed, test_x, test_y)
    with steps.step("fine-tune the codebooks (masked gradients)") as progress:
        tuning = FinetuneSettings(epochs=settings.finetune_epochs, rate=settings.finetune_rate)
        finetune(compressed, train_x, train_y, tuning, progress=progress)
        accuracy["fine-tuned"] = zoo.accuracy(compressed, test_x, test_y)
    checkpoint = compressed.to_checkpoint()
    checkpoint.save(out / "checkpoint")
    return data, compressed, checkpoint, accuracy, report(checkpoint)


def _integers(steps, settings, config, out, data, compressed, checkpoint, accuracy):
    """Calibrate and lower; returns the lowered network and the golden results for the digits to simulate."""
    from algo.calibration import calibrate
    from algo.integer import TorchIntegerNetwork
    from golden import Checkpoint, lower

    train_x, _, test_x, test_y = data
    with steps.step("calibrate, lower, run in integers") as progress:
        calibration = calibrate(compressed, train_x[: settings.calibration_images], progress=progress)
        calibration.save(out / "calibration.json")
        lowered = lower(Checkpoint.load(out / "checkpoint"), calibration, config)
        network = lowered.network
        images = network.quantise_input(test_x.numpy())
        values = network.run(images, keep=False)[network.graph.output]
        accuracy["int8"] = float((network.logits(values).argmax(axis=1) == test_y.numpy()).mean())
        results = network.run(images[: settings.digits])
        twin = TorchIntegerNetwork(network)(test_x[: settings.digits]).numpy()
        expected = network.logits(results[network.graph.output])
        if not np.array_equal(twin, expected):
            raise AssertionError("the torch integer network differs from the golden one")
    return lowered, results


def _simulate(steps, simulation, build, lowered, results):
    """Run every weighted layer on the Verilog, compare it with golden, and classify from what the Verilog gave."""
    from cocotb_tests.core_simulation import compare

    network = lowered.network
    names = [node.name for node in network.graph.layers]
    runs = {}
    for name in names:
        source = network.graph[name].inputs[0]
        runs[name] = list(lowered.layers[name].runs(results[source]))
    with steps.step("compile the Verilog (Verilator)"):
        build.result()
    with steps.step("classify digits on the Verilog") as progress:
        outputs = simulation.run([(name, runs[name]) for name in names], progress=progress)
    layers, batch = [], len(results[network.graph.input.name])
    for name, result in zip(names, outputs, strict=True):
        layer = lowered.layers[name]
        compare(layer, runs[name], result.outputs)
        model_cycles = layer.cycles(batch)
        layers.append(
            {
                "layer": name,
                "compressed": layer.compressed,
                "subsets": len(runs[name]),
                "cycles": result.cycles,
                "model_cycles": model_cycles,
                "values": int(np.prod(results[name].shape)),
            }
        )
        if result.cycles != model_cycles:
            raise AssertionError(f"layer {name!r} took {result.cycles} cycles, but the model says {model_cycles}")
    last = names[-1]
    subset_psums = [(run.subset, psums) for run, (psums, _) in zip(runs[last], outputs[-1].outputs, strict=True)]
    psums = lowered.layers[last].assemble(batch, subset_psums)[:, :, 0, 0]
    return layers, network.logits(psums).argmax(axis=1)


def _draw_digits(path, images, classes, labels):
    """PNG of the digits with the class that the Verilog gave."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = 8
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * 1.1, rows * 1.35), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, answer, label in zip(axes.flat, images, classes, labels, strict=False):
        axis.imshow(image, cmap="gray_r")
        axis.set_title(str(answer), color="tab:green" if answer == label else "tab:red", fontsize=12)
    figure.suptitle("Handwritten digits and the class that the Verilog gave", fontsize=11)
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)


def run_demo(out, settings=None, console=None):
    """Run the whole way and leave everything under ``out``.

    Parameters
    ----------
    out : folder. ``settings`` : :class:`DemoSettings`. ``console`` : rich console.

    Returns
    -------
    dict : the content of ``out/report.json``.

    Raises
    ------
    MvqError, or what a step raises: the demo ends at the first step whose result is not what golden says.
    """
    from cocotb_tests.core_simulation import CoreSimulation

    settings, console = settings or DemoSettings(), console or Console()
    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    config = preset(*settings.array)
    steps = _Steps(console)
    with ThreadPoolExecutor(1) as pool, steps.progress:
        with steps.step(f"generate Verilog of {config.name}"):
            design, files = write_design(config, out / "verilog")
        simulation = CoreSimulation(config, out / "simulation", design=design)
        build = pool.submit(simulation.build)
        data, compressed, checkpoint, accuracy, sizes = _learn(steps, settings, out)
        lowered, results = _integers(steps, settings, config, out, data, compressed, checkpoint, accuracy)
        layers, classes = _simulate(steps, simulation, build, lowered, results)
        labels = data[3][: settings.digits].numpy()
        _draw_digits(out / "digits.png", data[2][: settings.digits, 0].numpy(), classes, labels)
        golden_classes = lowered.network.logits(results[lowered.network.graph.output]).argmax(axis=1)
        if not np.array_equal(classes, golden_classes):
            raise AssertionError("the Verilog's classes differ from golden's")
        area = _areas(steps, settings, config, out)
    report = {
        "config": config.to_dict(),
        "accuracy": accuracy,
        "sizes": sizes,
        "layers": layers,
        "digits": len(classes),
        "right": int((classes == labels).sum()),
        "area": area,
        "seconds": {**steps.seconds, "total": round(time.monotonic() - start, 1)},
    }
    write_text(out / "report.json", json.dumps(report, indent=1) + "\n")
    _last_screen(console, out, config, report, files["verilog"])
    return report


def _areas(steps, settings, config, out):
    """Area of the six variants at the size of the demo's array."""
    from synth.area import area_report, draw_areas, save_report

    configs = [preset(variant, config.rows) for variant in VARIANTS]
    with steps.step(f"area of all six variants at {config.rows}x{config.columns}") as progress:
        report = area_report(configs, settings.liberty, progress=progress)
    save_report(report, out / "area.json")
    draw_areas([report], out / "area.png")
    return report


def _last_screen(console, out, config, report, verilog):
    from synth.area import area_table

    console.print(area_table(report["area"]))
    table = Table(title="Layers on the Verilog, every value equal to golden", show_edge=False)
    for heading in ("layer", "weights", "ofmap values", "cycles (RTL = model)"):
        table.add_column(heading, justify="left" if heading in ("layer", "weights") else "right")
    for row in report["layers"]:
        kind = "codebook + mask" if row["compressed"] else "int8"
        table.add_row(row["layer"], kind, f"{row['values']:,}", f"{row['cycles']:,}")
    console.print(table)
    console.print(compression_table(report["sizes"]["rows"]))
    accuracy, total = report["accuracy"], report["sizes"]["total"]
    cms = next(row for row in report["area"]["rows"] if row["variant"] == config.variant)
    console.print(
        Panel(
            "\n".join(
                [
                    f"Accuracy on 360 held-out digits: float {accuracy['float']:.2%}, "
                    f"compressed {accuracy['compressed']:.2%}, fine-tuned {accuracy['fine-tuned']:.2%}, "
                    f"int8 {accuracy['int8']:.2%}.",
                    f"Compression: {total['formula_ratio']:.1f}x by the paper's formula (eq. 7), "
                    f"{total['file_ratio']:.1f}x by file size.",
                    f"{report['digits']} digits ran on the Verilog of {config.name}: {report['right']} right, every "
                    f"value of {len(report['layers'])} layers and every cycle count equal to golden.",
                    f"{config.variant} takes {cms['total_um2']:,.0f} um2 at {config.rows}x{config.columns}, "
                    f"{cms['vs_ews']:+.1%} against EWS, codebook counted.",
                    "",
                    f"Files in {out}: report.json, checkpoint/, calibration.json, "
                    f"verilog/{verilog.name}, digits.png, area.json, area.png",
                    f"Took {report['seconds']['total']} s.",
                ]
            ),
            title="What was proven",
        )
    )
