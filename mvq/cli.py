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
):
    """Write Verilog with each distinct module once, and a JSON sidecar; the core unless --unit says otherwise."""
    from rich.console import Console

    from hdl.accelerator_config import load_accelerator_config
    from hdl.config import load_config
    from hdl.units import ACCELERATOR_UNITS

    loaded = load_accelerator_config(config) if unit in ACCELERATOR_UNITS else load_config(config)
    console = Console(stderr=True)
    with console.status(f"elaborating {unit or 'the core'} of {loaded.name}"):
        from mvq.generate import write_design

        design, files = write_design(loaded, out, unit, memories.replace("-", "_"), black_box_bits)
    console.print(f"Verilog: [green]{files['verilog']}[/]")
    if "memory_models" in files:
        count = len(design.sidecar["black_boxes"])
        console.print(f"models of {count} SRAM macro{'s' * (count != 1)}: [green]{files['memory_models']}[/]")
    if "registers" in files:
        console.print(f"C header of the registers: [green]{files['registers']}[/]")
    console.print(f"configuration {loaded.hash}, ports, memories, latencies: [green]{files['sidecar']}[/]")


@app.command()
def area(
    config: Annotated[list[str] | None, typer.Argument(help="Presets or files; optional with --sizes.")] = None,
    variants: Annotated[str | None, typer.Option("--variants", help="[bold]all[/], or names with commas.")] = None,
    sizes: Annotated[str | None, typer.Option("--sizes", help="Rows (= columns) with commas, e.g. 16,32,64.")] = None,
    liberty: Annotated[
        str, typer.Option("--liberty", help="nangate45, a .lib file, or PDK:LIBRARY below PDK_ROOT.")
    ] = "nangate45",
    unit: Annotated[str | None, typer.Option("--unit", help="One unit instead of the core, e.g. sparse_tile.")] = None,
    register_files: Annotated[
        str, typer.Option("--register-files", help="clock_gated or flip_flop; the same for all rows.")
    ] = "clock_gated",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
    png: Annotated[bool, typer.Option("--png", help="Draw bars by block, beside the report.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes at a time.")] = 2,
):
    """Synthesise configurations with Yosys and compare their areas."""

    from synth.area import area_report, area_table, draw_areas, expand, save_report
    from synth.flow import Policy
    from synth.liberty import resolve_liberty

    policy = Policy(register_files=register_files)
    configs = expand(config or [], _variants(variants) if variants else (), _numbers(sizes, "--sizes") if sizes else ())
    library = resolve_liberty(liberty)
    screen = _wide_console()
    report = _with_progress(
        f"{len(configs)} configuration{'s' * (len(configs) > 1)} on {library}, register files {policy.register_files}",
        {"generate": "generating Verilog", "synthesise": "synthesising"},
        lambda progress: area_report(configs, str(library), unit, policy, jobs=jobs, progress=progress),
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
        typer.Option("--objective", help="With --quick: what A, B, D and tiles are chosen for, cycles or energy."),
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
    reports: Annotated[list[Path], typer.Argument(help="Reports that `mvq area --json` wrote.")],
    csv: Annotated[bool, typer.Option("--csv", help="Write the table as CSV.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Write the table as Markdown.")] = False,
    png: Annotated[bool, typer.Option("--png", help="Draw bars by block.")] = False,
    out: Annotated[Path, typer.Option("--out", help="Where to write them; the endings are added.")] = Path(
        "comparison"
    ),
):
    """Put area reports side by side."""

    from golden.files import write_text
    from synth.area import draw_areas, load_report
    from synth.tables import compare_table, comparison, to_csv, to_markdown

    labels = [path.stem for path in reports]
    if len(set(labels)) < len(labels):
        labels = [str(path) for path in reports]
    loaded = list(zip(labels, map(load_report, reports), strict=True))
    header, rows, notes = comparison(loaded)
    screen = _wide_console()
    screen.print(compare_table(header, rows))
    for note in notes:
        screen.print(f"[yellow]note[/]: {note}")
    for wanted, ending, text in ((csv, ".csv", to_csv), (markdown, ".md", to_markdown)):
        if wanted:
            screen.print(f"table: {write_text(f'{out}{ending}', text(header, rows))}")
    if png:
        draw_areas([report for _, report in loaded], f"{out}.png", labels)
        screen.print(f"picture: {out}.png")


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


def _reals(text, option):
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise MvqError(f"{option} = {text!r}: must be numbers with commas, such as 0.5,0.5,0.5") from None


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
