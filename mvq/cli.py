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
    unit: Annotated[str | None, typer.Option("--unit", help="One unit instead of the core, e.g. sparse_tile.")] = None,
):
    """Write Verilog with each distinct module once, and a JSON sidecar."""
    from rich.console import Console

    from hdl.config import load_config

    loaded = load_config(config)
    console = Console(stderr=True)
    with console.status(f"elaborating {unit or 'the core'} of {loaded.name}"):
        from mvq.generate import write_design

        _, verilog, sidecar = write_design(loaded, out, unit)
    console.print(f"Verilog: [green]{verilog}[/]")
    console.print(f"configuration {loaded.hash}, ports, latencies, versions: [green]{sidecar}[/]")


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


def _wide_console():
    """A console that never squeezes a column of numbers: a narrow screen wraps lines instead."""
    from rich.console import Console

    return Console(width=max(Console().width, 120))


def _with_progress(title, work):
    """Run ``work(progress)`` under two progress bars."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    console.print(title, soft_wrap=True, highlight=False)
    with Progress(*columns, console=console, transient=True) as bars:
        tasks = {
            "generate": bars.add_task("generating Verilog", total=None),
            "synthesise": bars.add_task("synthesising", total=None),
        }
        return work(lambda stage, done, total: bars.update(tasks[stage], completed=done, total=total))


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
