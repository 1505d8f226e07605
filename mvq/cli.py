"""Command line. Commands import what they need when they run, so that ``mvq --help`` starts at once."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from hdl.config import MvqError

app = typer.Typer(
    name="mvq",
    help="Generate, verify and measure masked-vector-quantised accelerators.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)


def _version(value: bool):
    if value:
        from mvq import __version__

        typer.echo(f"mvq {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
):
    """Generate, verify and measure masked-vector-quantised accelerators."""


def _numbers(text, option):
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise MvqError(f"{option} = {text!r}: must be numbers with commas, such as 16,32,64")
    return numbers


def _variants(text):
    from hdl.config import VARIANTS

    return list(VARIANTS) if text == "all" else [part.strip() for part in text.split(",") if part.strip()]


@app.command()
def generate(
    config: Annotated[str, typer.Argument(help="Preset such as [bold]ews-cms-16x16[/], or a TOML or JSON file.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the Verilog and its sidecar.")],
    unit: Annotated[
        str | None, typer.Option("--unit", help="[bold]accelerator[/], or one unit of it, e.g. sparse_tile.")
    ] = None,
    memories: Annotated[
        str, typer.Option("--memories", help="behavioural, or black-box: instances of SRAM macros by name.")
    ] = "behavioural",
    black_box_bits: Annotated[
        int, typer.Option("--black-box-bits", help="Bits of the smallest memory that becomes a black box.")
    ] = 4096,
    handover: Annotated[
        str,
        typer.Option("--handover", help="Files for other flows: all, or some of fusesoc,sdc,librelane,orfs,ipxact."),
    ] = "",
    clock_mhz: Annotated[float, typer.Option("--clock-mhz", help="Clock that those flows are to reach.")] = 300.0,
):
    """Write Verilog with each distinct module once, and a JSON sidecar; the core unless --unit says otherwise."""
    from rich.console import Console

    from hdl.accelerator_config import load_accelerator_config
    from hdl.config import load_config
    from hdl.units import ACCELERATOR_UNITS
    from mvq.handover import KINDS, parse_kinds

    kinds = parse_kinds(handover)
    loaded = load_accelerator_config(config) if unit in ACCELERATOR_UNITS else load_config(config)
    console = Console(stderr=True)
    with console.status(f"elaborating {unit or 'the core'} of {loaded.name}"):
        from mvq.generate import write_design

        design, files = write_design(
            loaded, out, unit, memories.replace("-", "_"), black_box_bits, handover=kinds, clock_mhz=clock_mhz
        )
    console.print(f"Verilog: [green]{files['verilog']}[/]")
    if "memory_models" in files:
        count = len(design.sidecar["black_boxes"])
        console.print(f"models of {count} SRAM macro{'s' * (count != 1)}: [green]{files['memory_models']}[/]")
    if "registers" in files:
        console.print(f"C header of the registers: [green]{files['registers']}[/]")
    for kind in KINDS:
        if kind in files:
            console.print(f"{KINDS[kind]}: [green]{files[kind]}[/]")
    console.print(f"configuration {loaded.hash}, ports, memories, latencies: [green]{files['sidecar']}[/]")


@app.command()
def area(
    config: Annotated[list[str] | None, typer.Argument(help="Presets or files; optional with --sizes.")] = None,
    variants: Annotated[str | None, typer.Option("--variants", help="[bold]all[/], or names with commas.")] = None,
    sizes: Annotated[str | None, typer.Option("--sizes", help="Rows (= columns) with commas, e.g. 16,32,64.")] = None,
    liberty: Annotated[
        str, typer.Option("--liberty", help="nangate45, a .lib file, or PDK:LIBRARY below PDK_ROOT.")
    ] = "nangate45",
    unit: Annotated[
        str | None, typer.Option("--unit", help="[bold]accelerator[/], or one unit of it, e.g. sparse_tile.")
    ] = None,
    register_files: Annotated[
        str, typer.Option("--register-files", help="clock_gated, flip_flop or latch; the same for all rows.")
    ] = "clock_gated",
    hierarchy: Annotated[
        str,
        typer.Option("--hierarchy", help="shared: each distinct module once; hierarchical: each instance; flattened."),
    ] = "shared",
    codebook: Annotated[
        str | None, typer.Option("--codebook", help="registers or sram, instead of what the configurations say.")
    ] = None,
    memories: Annotated[
        str, typer.Option("--memories", help="Of the accelerator, such as L1: sram or registers.")
    ] = "sram",
    sram_table: Annotated[
        Path | None, typer.Option("--sram-table", help="Areas of SRAM macros, .toml or .json; see docs/area.md.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
    png: Annotated[bool, typer.Option("--png", help="Draw bars by block, beside the report.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes at a time.")] = 2,
):
    """Synthesise configurations with Yosys and compare their areas."""

    from synth.area import area_report, area_table, draw_areas, expand, in_memory, save_report
    from synth.flow import Policy
    from synth.liberty import resolve_liberty

    policy = Policy(register_files=register_files.replace("-", "_"), hierarchy=hierarchy)
    configs = expand(config or [], _variants(variants) if variants else (), _numbers(sizes, "--sizes") if sizes else ())
    if codebook:
        configs = in_memory(configs, codebook)
    library = resolve_liberty(liberty)
    screen = _wide_console()
    report = _with_progress(
        f"{len(configs)} configuration{'s' * (len(configs) > 1)} on {library}, register files {policy.register_files}",
        {"generate": "generating Verilog", "synthesise": "synthesising"},
        lambda progress: area_report(
            configs,
            str(library),
            unit,
            policy,
            jobs=jobs,
            progress=progress,
            memories=memories,
            sram_table=sram_table,
        ),
    )
    screen.print(area_table(report))
    if json_file:
        save_report(report, json_file)
        screen.print(f"report: {json_file}")
    if png:
        picture = (json_file or Path("area")).with_suffix(".png")
        draw_areas([report], picture)
        screen.print(f"picture: {picture}")


@app.command()
def timing(
    config: Annotated[list[str], typer.Argument(help="Presets such as [bold]ews-cms-16x16[/], or TOML or JSON files.")],
    clock_mhz: Annotated[float, typer.Option("--clock-mhz", help="Clock that gates are sized for.")],
    liberty: Annotated[
        str, typer.Option("--liberty", help="nangate45, a .lib file, or PDK:LIBRARY below PDK_ROOT.")
    ] = "nangate45",
    register_files: Annotated[str, typer.Option("--register-files", help="clock_gated or flip_flop.")] = "clock_gated",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes at a time.")] = 2,
):
    """Time cores with OpenSTA: slack, Fmax, the worst path into every block. Fails where the clock is not met."""
    import json

    from golden.files import write_text
    from hdl.config import load_config
    from synth.flow import Policy
    from synth.timing import timing_report, timing_table, unmet

    configs = [load_config(source) for source in config]
    report = _with_progress(
        f"{', '.join(one.name for one in configs)} at {clock_mhz:g} MHz on {liberty}",
        {"generate": "generating Verilog", "synthesise": "synthesising", "time": "timing"},
        lambda progress: timing_report(
            configs, clock_mhz, liberty, Policy(register_files=register_files), jobs=jobs, progress=progress
        ),
    )
    screen = _wide_console()
    screen.print(timing_table(report))
    if json_file:
        screen.print(f"report: {write_text(json_file, json.dumps(report, indent=1) + chr(10))}")
    if late := unmet(report):
        raise MvqError(late)


@app.command()
def power(
    config: Annotated[str, typer.Argument(help="Preset such as [bold]ews-cms-16x16[/], or a TOML or JSON file.")],
    checkpoint: Annotated[Path, typer.Option("--checkpoint", help="Folder of a checkpoint with its calibration.")],
    images: Annotated[Path, typer.Option("--images", help="Images of the network, .npz; the first one is run.")],
    layer: Annotated[str | None, typer.Option("--layer", help="The one with the most work, unless named.")] = None,
    clock_mhz: Annotated[float, typer.Option("--clock-mhz", help="Clock that gates are sized for.")] = 300,
    liberty: Annotated[
        str, typer.Option("--liberty", help="nangate45, a .lib file, or PDK:LIBRARY below PDK_ROOT.")
    ] = "nangate45",
    cycles: Annotated[int, typer.Option("--cycles", min=1, help="About how many to simulate.")] = 2000,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes at a time.")] = 2,
):
    """Power of a core by block: its gates run a layer of a real network, and every toggle has its energy."""
    import json

    from golden.files import write_text
    from hdl.config import load_config
    from mvq.power import power_report, power_table

    loaded = load_config(config)
    report = _with_progress(
        f"{loaded.name} at {clock_mhz:g} MHz on {liberty}",
        {"generate": "generating Verilog", "synthesise": "synthesising", "simulate": "simulating gates"},
        lambda progress: power_report(
            loaded,
            checkpoint,
            images,
            layer=layer,
            clock_mhz=clock_mhz,
            liberty=liberty,
            cycles=cycles,
            jobs=jobs,
            progress=progress,
        ),
    )
    screen = _wide_console()
    screen.print(power_table(report))
    if json_file:
        screen.print(f"report: {write_text(json_file, json.dumps(report, indent=1) + chr(10))}")


@app.command()
def estimate(
    network: Annotated[
        str,
        typer.Argument(
            help="Folder of a checkpoint, a TOML or JSON file of layer shapes, or resnet18, resnet50, vgg16, "
            "mobilenet_v1, alexnet."
        ),
    ],
    config: Annotated[
        str, typer.Option("--config", help="Preset such as [bold]ews-cms-16x16[/], or a TOML or JSON file.")
    ],
    quick: Annotated[
        bool, typer.Option("--quick", help="In closed form, from layer shapes alone: a second, but not exact.")
    ] = False,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            help="With --quick: what A, B, D and tiles are chosen for: cycles, energy or edp, the product of both.",
        ),
    ] = None,
    l2_kb: Annotated[int, typer.Option("--l2-kb", min=1, help="Size of L2.")] = 2048,
    read_latency: Annotated[int, typer.Option("--read-latency", min=1, help="Cycles from L2 to the first beat.")] = 20,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the estimate here.")] = None,
):
    """Cycles, stalls, traffic and energy of a network, layer by layer, exact, without any RTL."""
    from rich.markup import escape

    from hdl.accelerator_config import load_accelerator_config
    from mvq.estimate import STAGES, estimate_tables, run_estimate, save_estimate

    options = {"quick": quick, "objective": objective, "l2_bytes": l2_kb << 10, "read_latency": read_latency}
    machine = load_accelerator_config(config)
    found, reason = _with_progress(
        None, STAGES, lambda progress: run_estimate(network, machine, **options, progress=progress)
    )
    screen = _wide_console()
    if reason:
        screen.print(f"[yellow]note[/]: {escape(reason)}", soft_wrap=True, highlight=False)
    for table in estimate_tables(found):
        screen.print(table)
    if json_file:
        screen.print(f"estimate: {save_estimate(found, json_file)}")


def _wide_console():
    """A console that never squeezes a column of numbers: a narrow screen wraps lines instead."""
    from rich.console import Console

    return Console(width=max(Console().width, 120))


def _with_progress(title, stages, work):
    """Run ``work(progress)`` under a progress bar for each of ``stages`` (name -> text)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    if title:
        console.print(title, soft_wrap=True, highlight=False)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks = {name: bars.add_task(text, total=None) for name, text in stages.items()}
        return work(lambda stage, done, total: bars.update(tasks[stage], completed=done, total=total))


_SPEC = "package.module:callable of your own file, such as [bold]mynet:Net[/], or an .onnx file."
_TRAIN = "Training"
_ACCURACY = "Accuracy"
_DATA = "Images: .npz, CIFAR-10, a folder of pictures, or ImageNet; see docs/compress.md."


@app.command()
def compress(
    network: Annotated[str, typer.Argument(help=_SPEC)],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the checkpoint.")] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="State dict (.pt, .pth, .safetensors).")] = None,
    shape: Annotated[str | None, typer.Option("--input", help="Channels, rows and columns, such as 3,32,32.")] = None,
    method: Annotated[
        str, typer.Option("--method", help="mvq, vq, vq-sparse-dense, vq-sparse, pqf, vecq or int8.")
    ] = "mvq",
    codewords: Annotated[
        int | None, typer.Option("--codewords", help="k, of a codebook; 512, or 1024 for dense methods.")
    ] = None,
    codeword_bits: Annotated[int, typer.Option("--codeword-bits", help="Of an element of a codeword, 2 to 8.")] = 8,
    weight_bits: Annotated[int, typer.Option("--weight-bits", help="Of a weight of vecq, 1 to 7.")] = 4,
    n: Annotated[int, typer.Option("--n", help="N weights of every M survive.")] = 4,
    m: Annotated[int, typer.Option("--m", help="See --n.")] = 16,
    vector_length: Annotated[
        int | None, typer.Option("--vector-length", help="d, output channels in a vector; 16, or 8 for dense methods.")
    ] = None,
    codebook: Annotated[str, typer.Option("--codebook", help="layer, one for each layer, or shared.")] = "layer",
    normalise: Annotated[
        bool, typer.Option("--normalise", help="Output channels of one size for the clustering.")
    ] = False,
    dense: Annotated[
        list[str] | None, typer.Option("--dense", help="A layer that stays int8; may be repeated.")
    ] = None,
    also: Annotated[
        list[str] | None, typer.Option("--compress", help="A layer to compress whatever the rule; may be repeated.")
    ] = None,
    calibrate: Annotated[Path | None, typer.Option("--calibrate", help=f"Write calibration.json too. {_DATA}")] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Images to calibrate with.")] = 256,
    split: Annotated[str, typer.Option("--split", help="Of the images, train or test.")] = "train",
    mean: Annotated[str | None, typer.Option("--mean", help="Of pixels from 0 to 1, by channel, with commas.")] = None,
    std: Annotated[str | None, typer.Option("--std", help="Of pixels from 0 to 1, by channel, with commas.")] = None,
    size: Annotated[int | None, typer.Option("--size", min=1, help="Rows and columns to cut out.")] = None,
    resize: Annotated[int | None, typer.Option("--resize", min=1, help="Short side before that.")] = None,
    observer: Annotated[
        str | None, typer.Option("--observer", help="Of activations: minmax, percentile or mse.")
    ] = None,
    percentile: Annotated[float | None, typer.Option("--percentile", help="Of magnitudes, not the largest.")] = None,
    train: Annotated[
        Path | None,
        typer.Option("--train", help="Images to train on.", rich_help_panel=_TRAIN),
    ] = None,
    sparse_epochs: Annotated[
        int, typer.Option("--sparse-epochs", min=0, help="Towards N:M, before clustering.", rich_help_panel=_TRAIN)
    ] = 0,
    pruning: Annotated[str, typer.Option("--pruning", help="sr-ste or asp.", rich_help_panel=_TRAIN)] = "sr-ste",
    fit: Annotated[
        int,
        typer.Option("--reconstruct", min=0, help="Images to fit to, without labels.", rich_help_panel=_TRAIN),
    ] = 0,
    epochs: Annotated[
        int, typer.Option("--epochs", min=0, help="Of fine-tuning, after clustering.", rich_help_panel=_TRAIN)
    ] = 0,
    optimiser: Annotated[
        str, typer.Option("--optimiser", help="adamw, adam or sgd.", rich_help_panel=_TRAIN)
    ] = "adamw",
    rate: Annotated[float, typer.Option("--rate", help="First learning rate.", rich_help_panel=_TRAIN)] = 1e-3,
    batch: Annotated[int, typer.Option("--batch", help="Images in a step.", rich_help_panel=_TRAIN)] = 64,
    activations: Annotated[
        str, typer.Option("--activations", help="float, or int8 in fine-tuning too.", rich_help_panel=_TRAIN)
    ] = "float",
    precision: Annotated[
        str, typer.Option("--precision", help="Of training: float32, or bfloat16.", rich_help_panel=_TRAIN)
    ] = "float32",
    teacher: Annotated[
        bool, typer.Option("--teacher", help="Distil the float network.", rich_help_panel=_TRAIN)
    ] = False,
    augment: Annotated[
        bool, typer.Option("--augment", help="Crop and mirror at random.", rich_help_panel=_TRAIN)
    ] = False,
    validate: Annotated[
        Path | None, typer.Option("--validate", help="Images to classify every epoch.", rich_help_panel=_TRAIN)
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option("--work", help="Where trainings go on from; OUT.training.", rich_help_panel=_TRAIN),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Draws codewords and the order of images.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would become of each layer.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the table here.")] = None,
):
    """Compress a network: prune, cluster, quantise, train where --train is given, and save a checkpoint."""
    import json

    from rich.console import Console

    from algo.compress import CompressSettings, report
    from algo.finetune import FinetuneSettings
    from algo.methods import METHODS
    from algo.sources import load_network
    from golden.files import write_text
    from mvq.compress import CALIBRATION, STAGES, Training, check_plan, make_plan, run_compress
    from mvq.tables import compression_table, plan_table

    if out is None and not dry_run:
        raise MvqError("--out is missing: name the folder for the checkpoint, or give --dry-run")
    settings = CompressSettings(
        method=method,
        codewords=codewords,
        codeword_bits=codeword_bits,
        weight_bits=weight_bits,
        n=n,
        m=m,
        vector_length=vector_length,
        codebook=codebook,
        normalise=normalise,
        dense=tuple(dense or ()),
        compress=tuple(also or ()),
        seed=seed,
    )
    input_shape = None if shape is None else tuple(_numbers(shape, "--input"))
    module, input_shape = load_network(network, weights=weights, input_shape=input_shape)
    screen = _wide_console()
    if dry_run:
        plan = make_plan(module, input_shape, settings)
        screen.print(plan_table(plan))
        if json_file:
            screen.print(f"plan: {write_text(json_file, json.dumps(plan.to_dict(), indent=1) + chr(10))}")
        check_plan(plan)
        return
    images = None
    if calibrate is not None:
        data = _load_data(calibrate, input_shape, split, mean, std, size, resize, count)
        data.check(input_shape)
        images = data.images
        Console(stderr=True).print(f"calibrating with {len(images)} images of {data.source}", soft_wrap=True)
    training = None
    if train is None and (sparse_epochs or epochs or fit):
        raise MvqError("--train is missing: name the images for --sparse-epochs, --reconstruct and --epochs")
    if train is not None:
        tuning = FinetuneSettings(
            optimiser=optimiser, rate=rate, batch=batch, seed=seed, activations=activations, precision=precision
        )
        seen = _load_data(train, input_shape, split, mean, std, size, resize, None)
        seen.check(input_shape)
        held_out = None
        if validate is not None:
            held_out = _load_data(validate, input_shape, "test", mean, std, size, resize, None)
            held_out.check(input_shape)
        training = Training(
            images=seen.images,
            labels=seen.labels,
            sparse_epochs=sparse_epochs,
            pruning=pruning,
            reconstruct=fit,
            epochs=epochs,
            settings=tuning,
            teacher=teacher,
            augment=augment,
            validation=None if held_out is None else (held_out.images, held_out.labels),
            folder=work or out.with_name(f"{out.name}.training"),
        )
    wanted = {"prune": sparse_epochs, "reconstruct": fit, "fine-tune": epochs, "calibrate": images is not None}
    checkpoint = _with_progress(
        f"{network}: {METHODS[settings.method].summary}",
        {name: text for name, text in STAGES.items() if wanted.get(name, True)},
        lambda progress: run_compress(
            module,
            input_shape,
            settings,
            out,
            images=images,
            observer=observer,
            percentile=percentile,
            training=training,
            progress=progress,
        ),
    )
    found = report(checkpoint)
    screen.print(compression_table(found["rows"], found["total"]))
    calibrated = (out / CALIBRATION).is_file()
    screen.print(f"checkpoint: {out}" + (f", with {CALIBRATION}" if calibrated else ""), soft_wrap=True)
    if json_file:
        screen.print(f"report: {write_text(json_file, json.dumps(found, indent=1) + chr(10))}")


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Folder or zip of a compressed checkpoint.")],
    data: Annotated[Path, typer.Option("--data", help=_DATA)],
    network: Annotated[str | None, typer.Option("--network", help=f"The float network: {_SPEC}")] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="Of the float network.")] = None,
    integers: Annotated[bool, typer.Option("--integers", help="What the accelerator computes, too.")] = False,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="Default: calibration.json in the checkpoint.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="So many images; all by default.")] = None,
    split: Annotated[str, typer.Option("--split", help="Of the images, train or test.")] = "test",
    mean: Annotated[str | None, typer.Option("--mean", help="Of pixels from 0 to 1, by channel, with commas.")] = None,
    std: Annotated[str | None, typer.Option("--std", help="Of pixels from 0 to 1, by channel, with commas.")] = None,
    size: Annotated[int | None, typer.Option("--size", min=1, help="Rows and columns to cut out.")] = None,
    resize: Annotated[int | None, typer.Option("--resize", min=1, help="Short side before that.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images at a time.")] = 100,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the scores here.")] = None,
):
    """How often a compressed network is right, in float activations and in integers."""
    import json

    from golden.files import write_text
    from mvq.evaluate import evaluate as score
    from mvq.evaluate import load_networks
    from mvq.tables import score_table

    networks, input_shape, classes = load_networks(checkpoint, network, weights, integers, calibration)
    dataset = _load_data(data, input_shape, split, mean, std, size, resize, count)
    dataset.check(input_shape, classes)
    scores = _with_progress(
        f"{', '.join(networks)} on {len(dataset)} images of {dataset.source}",
        {"evaluate": "classifying images"},
        lambda progress: score(networks, dataset, classes, batch, progress),
    )
    screen = _wide_console()
    screen.print(score_table(scores))
    if json_file:
        content = {
            "checkpoint": str(checkpoint),
            "data": dataset.source,
            "classes": classes,
            "networks": [item.to_dict() for item in scores],
        }
        screen.print(f"scores: {write_text(json_file, json.dumps(content, indent=1) + chr(10))}")


def _load_data(path, input_shape, split, mean, std, size, resize, count):
    """Images for a network that takes ``input_shape``, read under a progress bar."""
    from algo.datasets import load_dataset

    options = {"split": split, "size": size, "resize": resize, "count": count}
    options |= {"mean": _reals(mean, "--mean"), "std": _reals(std, "--std")}
    options["channels"] = 1 if input_shape[0] == 1 else 3
    return _with_progress(
        None, {"read": "reading images"}, lambda progress: load_dataset(path, **options, progress=progress)
    )


@app.command()
def compare(
    reports: Annotated[
        list[Path], typer.Argument(help="JSON reports of `mvq area`, `timing`, `power`, `estimate`, `explore`.")
    ],
    html: Annotated[
        Path | None, typer.Option("--html", help="Write one page with tables that sort, and plots; needs no network.")
    ] = None,
    png: Annotated[Path | None, typer.Option("--png", help="Folder for pictures: bars by block, Pareto plots.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write all designs as CSV.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write the tables as Markdown.")] = None,
    separate: Annotated[
        bool, typer.Option("--separate", help="A section for each library and policy; else they must be the same.")
    ] = False,
):
    """Put reports side by side, joined by configuration, and beside the paper's numbers."""
    from rich.markup import escape

    from golden.files import write_text
    from mvq.compare import compare as join
    from mvq.compare import csv_table, draw, load_reports, screen_table, section_tables, to_csv, to_markdown

    loaded = load_reports(reports)
    sections = join(loaded, separate)
    screen = _wide_console()
    for section in sections:
        if section.title:
            screen.print(f"[bold]{escape(section.title)}[/]", highlight=False, soft_wrap=True)
        for note in section.notes:
            screen.print(f"[yellow]note[/]: {escape(note)}", soft_wrap=True)
        for table in section_tables(section):
            screen.print(screen_table(table))
    if csv:
        screen.print(f"table: {write_text(csv, to_csv(csv_table(sections)))}", soft_wrap=True)
    if markdown:
        text = "\n".join(to_markdown(table) for section in sections for table in section_tables(section))
        screen.print(f"tables: {write_text(markdown, text)}", soft_wrap=True)
    if png:
        for picture in draw(sections, png):
            screen.print(f"picture: {picture}", soft_wrap=True)
    if html:
        from mvq.page import write_page

        screen.print(f"page: {write_page(sections, loaded, html)}", soft_wrap=True)


@app.command()
def explore(
    objectives: Annotated[str, typer.Option("--objectives", help="Some of area, cycles, energy, accuracy.")] = (
        "area,cycles,energy"
    ),
    networks: Annotated[
        list[str] | None,
        typer.Option("--network", help="As for `mvq estimate`; may be repeated, cycles and energy are added up."),
    ] = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Points in all, earlier ones included.")] = 50,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Values of a knob, such as [bold]variant=ews,ews-cms[/] or [bold]rows=32[/]."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for report, picture and study.")] = Path("exploration"),
    study: Annotated[
        str | None, typer.Option("--study", help="Database, such as postgresql://HOST/NAME; sqlite:///OUT/study.db.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Of the study in the database.")] = "mvq",
    sampler: Annotated[str, typer.Option("--sampler", help="tpe, nsga2, or all: every point.")] = "tpe",
    seed: Annotated[int, typer.Option("--seed", help="Of the sampler.")] = 0,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="Address of a Dask scheduler; else own processes.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Own processes.")] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="Cycles and energy as with `mvq estimate --quick`.")] = False,
    liberty: Annotated[str, typer.Option("--liberty", help="As for `mvq area`.")] = "nangate45",
    register_files: Annotated[str, typer.Option("--register-files", help="As for `mvq area`.")] = "clock_gated",
    accuracy: Annotated[
        Path | None,
        typer.Option("--accuracy", help="JSON table; see docs/explore.md.", rich_help_panel=_ACCURACY),
    ] = None,
    compressed: Annotated[
        str | None, typer.Option("--compress", help=f"Measure it on {_SPEC}", rich_help_panel=_ACCURACY)
    ] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="Of --compress.", rich_help_panel=_ACCURACY)] = None,
    shape: Annotated[str | None, typer.Option("--input", help="Of --compress.", rich_help_panel=_ACCURACY)] = None,
    data: Annotated[Path | None, typer.Option("--data", help=_DATA, rich_help_panel=_ACCURACY)] = None,
    fit: Annotated[
        int, typer.Option("--reconstruct", min=0, help="Images to fit codewords to.", rich_help_panel=_ACCURACY)
    ] = 0,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="So many images; all by default.", rich_help_panel=_ACCURACY)
    ] = None,
    mean: Annotated[str | None, typer.Option("--mean", help="As for evaluate.", rich_help_panel=_ACCURACY)] = None,
    std: Annotated[str | None, typer.Option("--std", help="As for evaluate.", rich_help_panel=_ACCURACY)] = None,
    size: Annotated[int | None, typer.Option("--size", help="As for evaluate.", rich_help_panel=_ACCURACY)] = None,
    resize: Annotated[int | None, typer.Option("--resize", help="As for evaluate.", rich_help_panel=_ACCURACY)] = None,
):
    """Search for the configurations that nothing else beats; goes on where it was stopped."""
    from mvq.accuracy import AccuracyTable, CompressedAccuracy
    from mvq.explore import Settings, draw, save, summary, tables
    from mvq.explore import explore as search
    from mvq.knobs import Space
    from synth.flow import Policy
    from synth.liberty import resolve_liberty

    names = tuple(part.strip() for part in objectives.split(",") if part.strip())
    source = AccuracyTable.read(accuracy) if accuracy else None
    if compressed and source:
        raise MvqError("--accuracy and --compress: give one of them")
    if compressed:
        if data is None:
            raise MvqError("--data is missing: name the images that --compress is measured on")
        source = CompressedAccuracy(
            network=compressed,
            data=data,
            weights=weights,
            input_shape=None if shape is None else _numbers(shape, "--input"),
            mean=_reals(mean, "--mean"),
            std=_reals(std, "--std"),
            size=size,
            resize=resize,
            count=count,
            reconstruct=fit,
        )
        source.check()
    settings = Settings(
        objectives=names,
        space=Space.parse(changes or ()),
        networks=tuple(networks or ()),
        quick=quick,
        liberty=resolve_liberty(liberty) if "area" in names else None,
        policy=Policy(register_files=register_files),
        accuracy=source,
    )
    report = _with_progress(
        f"{', '.join(names)} over {settings.space.size:,} points",
        {"explore": "exploring"},
        lambda progress: search(
            settings,
            study or f"sqlite:///{out}/study.db",
            name=name,
            trials=trials,
            sampler=sampler,
            seed=seed,
            scheduler=scheduler,
            jobs=jobs,
            progress=progress,
        ),
    )
    screen = _wide_console()
    for table in tables(report):
        screen.print(table)
    screen.print(summary(report), highlight=False)
    screen.print(f"study: {report['study']['url']}, report: {save(report, out / 'explore.json')}", soft_wrap=True)
    if picture := draw(report, out / "front.png"):
        screen.print(f"picture: {picture}", soft_wrap=True)


@app.command()
def run(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a compressed checkpoint.")],
    config: Annotated[str, typer.Option("--config", help="Preset such as [bold]ews-cms-16x16[/], or a file.")],
    images: Annotated[Path, typer.Option("--images", help=".npz with x, and labels y.")],
    engine: Annotated[str, typer.Option("--engine", help="golden, cxxrtl, verilator or icarus.")] = "cxxrtl",
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="Default: calibration.json in the checkpoint.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="The first so many images.")] = None,
    mean: Annotated[str | None, typer.Option("--mean", help="Of uint8 images, by channel, with commas.")] = None,
    std: Annotated[str | None, typer.Option("--std", help="Of uint8 images, by channel, with commas.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Store and compare the result of every layer.")] = False,
    read_latency: Annotated[
        int, typer.Option("--read-latency", min=1, help="Cycles to the first beat, with cxxrtl.")
    ] = 20,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
):
    """Run a compressed network on the accelerator and compare with golden: every stored value, every cycle."""
    import json

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from golden.files import write_text
    from golden.timing import MemoryTiming
    from hdl.accelerator_config import load_accelerator_config
    from mvq.run import load_images, make_engine, prepare, run_images
    from mvq.tables import run_table

    loaded = load_accelerator_config(config)
    pictures, labels = load_images(images, _reals(mean, "--mean"), _reals(std, "--std"), count)
    lowered, program = prepare(checkpoint, loaded, calibration, "all" if keep else None)
    console = Console(stderr=True)
    console.print(
        f"{checkpoint} on {loaded.name}: {program.program_length} descriptors, {program.size:,} bytes of memory"
    )
    with console.status(f"building the engine {engine}"):
        machine, timing = make_engine(engine, loaded, memory=MemoryTiming(read_latency=read_latency))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(f"images on {engine}", total=len(pictures))
        report = run_images(
            lowered, program, pictures, labels, machine, timing, lambda done: bars.update(task, completed=done)
        )
    screen = _wide_console()
    screen.print(run_table(report, program, engine))
    if json_file:
        content = {"network": str(checkpoint), "config": loaded.to_dict(), "engine": engine, **report.to_dict()}
        screen.print(f"report: {write_text(json_file, json.dumps(content, indent=1) + chr(10))}")


@app.command()
def fpga(
    config: Annotated[str, typer.Argument(help="Preset such as [bold]ews-cms-16x16[/], or a TOML or JSON file.")],
    board: Annotated[
        str, typer.Option("--board", help="Board of amaranth-boards, such as ulx3s-85f, icebreaker, artya7-100.")
    ],
    unit: Annotated[
        str | None, typer.Option("--unit", help="One unit instead of the accelerator, e.g. core or sparse_tile.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Network that the board is to hold and run.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="Default: calibration.json in the checkpoint.")
    ] = None,
    pnr: Annotated[
        bool, typer.Option("--pnr", help="Place and route with nextpnr, for Fmax and a bitstream; takes minutes.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=1, help="Of place and route.")] = 1,
    simulate: Annotated[
        Path | None, typer.Option("--simulate", help="First send these images (.npz) over the UART of a simulation.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="The first so many images.")] = None,
    baud: Annotated[int, typer.Option("--baud", min=300, help="Bits a second on the UART.")] = 115_200,
    out: Annotated[Path, typer.Option("--out", help="Folder for Verilog, netlist, logs and bitstream.")] = Path(
        "out/fpga"
    ),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
):
    """What a configuration takes of an FPGA board, and a bitstream that classifies images over a UART."""
    import json

    from rich.console import Console

    from golden.files import write_text
    from hdl.accelerator_config import load_accelerator_config
    from mvq.fpga import board_network, fpga_table, run_fpga, simulate_network
    from synth.boards import find_board

    place, loaded = find_board(board), load_accelerator_config(config)
    if simulate is not None and checkpoint is None:
        raise MvqError("--checkpoint is missing: name the network for --simulate")
    network = board_network(checkpoint, loaded, calibration) if checkpoint else None
    screen, console = _wide_console(), Console(stderr=True)
    simulated = None
    if simulate is not None:
        simulated = _with_progress(
            f"{checkpoint} on the system of {loaded.name}, over its UART",
            {"simulate": "classifying images"},
            lambda progress: simulate_network(network, place, baud, simulate, count, progress),
        )
        screen.print(simulated.sentence)
    with console.status(f"{loaded.name} for {place.name}") as status:
        report, problem = run_fpga(
            loaded, place, out, unit=unit, network=network, pnr=pnr, baud=baud, seed=seed, progress=status.update
        )
    report["simulation"] = simulated and simulated.to_dict()
    screen.print(fpga_table(report))
    if "fmax_mhz" in report:
        screen.print(f"Fmax {report['fmax_mhz']} MHz; the board's clock has {report['clock_mhz']:g} MHz")
    if report.get("bitstream"):
        screen.print(f"bitstream: {report['bitstream']}")
    if json_file:
        screen.print(f"report: {write_text(json_file, json.dumps(report, indent=1) + chr(10))}")
    if problem:
        raise problem


def _reals(text, option):
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise MvqError(f"{option} = {text!r}: must be numbers with commas, such as 0.5,0.5,0.5") from None


@app.command()
def prove(
    config: Annotated[str, typer.Argument(help="Preset such as [bold]ews-cms-16x16[/], or a TOML or JSON file.")],
    unit: Annotated[
        list[str] | None,
        typer.Option(
            "--unit", help="Netlist to prove; may be repeated. PE, tile, mask encoder and decoder by default."
        ),
    ] = None,
    liberty: Annotated[
        str, typer.Option("--liberty", help="nangate45, a .lib file, or PDK:LIBRARY below PDK_ROOT.")
    ] = "nangate45",
    register_files: Annotated[str, typer.Option("--register-files", help="clock_gated or flip_flop.")] = "clock_gated",
    style: Annotated[str, typer.Option("--style", help="Gateware: structural or behavioural.")] = "structural",
    tiles: Annotated[
        list[str] | None,
        typer.Option("--tiles", help="Instead: sparse = dense tile, by bounded or induction; may be repeated."),
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="With --tiles: rows of the tiles.")] = 1,
    words: Annotated[int, typer.Option("--words", min=2, help="With --tiles: words of their WRF.")] = 2,
    bits: Annotated[int, typer.Option("--bits", help="With --tiles bounded: of weights and activations.")] = 2,
    cycles: Annotated[int, typer.Option("--cycles", min=1, help="With --tiles bounded: from reset.")] = 8,
    timeout: Annotated[int, typer.Option("--timeout", min=1, help="Seconds for each run of a solver.")] = 600,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes at a time.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the proofs here.")] = None,
):
    """Prove netlists equal to their RTL, or sparse tiles equal to dense ones, for all inputs."""
    import json

    from golden.files import write_text
    from hdl.config import load_config
    from proofs.model_check import prove_tiles, small_tile
    from proofs.tables import netlist_table, tile_table, verdict
    from synth.equivalence import default_units, prove_units
    from synth.flow import Policy
    from synth.liberty import read_liberty, resolve_liberty

    loaded, netlists, proofs = load_config(config), [], []
    if tiles:
        small = small_tile(loaded.replace(style=style), rows, words)
        options = {"bits": bits, "cycles": cycles, "timeout_s": timeout}

        def prove_all(progress):
            for done, method in enumerate(tiles):
                progress("methods", done, len(tiles))
                proofs.append(prove_tiles(small, method, **options))

        _with_progress(f"sparse and dense tile of {loaded.name}", {"methods": "proving"}, prove_all)
        table = tile_table(proofs)
    else:
        library, policy = read_liberty(resolve_liberty(liberty)), Policy(register_files=register_files, style=style)
        units = unit or default_units(loaded)
        netlists = _with_progress(
            f"netlists of {', '.join(units)} on {library.name}",
            {"units": "units", "modules": "modules of the unit"},
            lambda progress: prove_units(
                loaded, units, library, policy, timeout_s=timeout, jobs=jobs, progress=progress
            ),
        )
        table = netlist_table(netlists)
    screen = _wide_console()
    screen.print(table)
    if json_file:
        content = {"netlists": netlists, "tiles": proofs}
        screen.print(f"proofs: {write_text(json_file, json.dumps(content, indent=1) + chr(10))}")
    if failure := verdict(netlists, proofs):
        raise MvqError(failure)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything the demo makes.")] = Path("out/demo"),
):
    """Train, compress, generate, simulate and measure: the whole way on handwritten digits."""

    from mvq.demo import run_demo

    run_demo(out)


def main():
    """Entry point: an error that the user can mend is one red sentence and exit code 2."""
    try:
        app()
    except MvqError as error:
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True, soft_wrap=True).print(Text(f"error: {error}", style="red"))
        tail = getattr(error, "log_tail", None)
        if tail:
            print(tail, file=sys.stderr)
        sys.exit(2)
