"""Tables on screen of the commands that compress and run networks."""

from rich.markup import escape
from rich.table import Table

__all__ = ["compression_table", "plan_table", "run_table", "score_table"]


def _by(shape):
    return "x".join(map(str, shape))


def compression_table(rows, total=None):
    """What a compression cost and saved.

    Parameters
    ----------
    rows, total : of :func:`algo.compress.report`; without a last line where ``total`` is None.
    """
    table = Table(title="Compression by layer", show_edge=False)
    for heading in ("layer", "weights", "shape", "codewords", "bytes", "SSE", "masked SSE"):
        table.add_column(heading, justify="left" if heading in ("layer", "weights") else "right")
    for row in rows:
        codewords = str(row["codewords"] or "")
        masked = "" if row["masked_sse"] is None else f"{row['masked_sse']:.3g}"
        table.add_row(
            row["name"],
            row["storage"],
            _by(row["shape"]),
            codewords,
            f"{row['bytes']:,.0f}",
            f"{row['sse']:.3g}",
            masked,
        )
    if total:
        table.add_section()
        sums = (f"{total[key]:.3g}" for key in ("sse", "masked_sse"))
        table.add_row("all, as a file", "", "", "", f"{total['file_bytes']:,}", *sums)
        table.caption = (
            f"{total['formula_ratio']:.1f}x by the paper's eq. 7, {total['file_ratio']:.1f}x by file size; SSE of the "
            f"compressed layers"
        )
    return table


def plan_table(plan):
    """What ``mvq compress --dry-run`` would do; ``plan`` : :class:`mvq.compress.Plan`."""
    table = Table(title="What would become of each layer", show_edge=False)
    for heading in ("layer", "becomes", "shape", "weights", "vectors", "codewords", "bits", "codebook bits"):
        left = heading in ("layer", "becomes")
        table.add_column(heading, justify="left" if left else "right", overflow="fold" if left else "ellipsis")
    colours = {"compressed": "green", "dense": "default", "unsupported": "red"}
    for layer in plan.layers:
        numbers = (layer.weights, layer.vectors, layer.codewords, layer.bits, layer.codebook_bits)
        table.add_row(
            escape(layer.name),
            f"[{colours[layer.fate]}]{layer.fate}[/]" + (f": {escape(layer.reason)}" if layer.reason else ""),
            _by(layer.shape),
            *(f"{number:,}" if number else "" for number in numbers),
        )
    table.add_section()
    codebooks = plan.shared_bits + sum(layer.codebook_bits for layer in plan.layers)
    vectors = sum(layer.vectors for layer in plan.layers)
    table.add_row(
        "all", "", "", f"{plan.weights:,}", f"{vectors:,}", "", f"{plan.bits - codebooks:,}", f"{codebooks:,}"
    )
    table.caption = (
        f"{plan.formula_ratio:.1f}x by the paper's eq. 7 for what is compressed, {plan.ratio:.1f}x for all weights"
    )
    return table


def score_table(scores):
    """Result of ``mvq evaluate``; ``scores`` : :class:`mvq.evaluate.Score` of each network."""
    first = scores[0]
    table = Table(title=f"{first.images:,} images", title_justify="left", show_edge=False)
    headings = ["network", "right", "top-1"] + ["top-5"] * (first.top5 is not None)
    for heading in [*headings, f"against {first.network}"]:
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for score in scores:
        cells = [score.network, f"{score.right:,}", f"{score.top1:.2%}"]
        cells += [] if score.top5 is None else [f"{score.top5:.2%}"]
        drop = "" if score is first else f"{100 * (score.top1 - first.top1):+.2f} points"
        table.add_row(*cells, drop)
    table.caption = f"standard error of top-1: {100 * first.standard_error:.2f} points"
    return table


def run_table(report, program, engine):
    """Result of ``mvq run``.

    Parameters
    ----------
    report : :class:`mvq.run.RunReport`. ``program`` : :class:`golden.program.Program`. ``engine`` : its name.
    """
    count = len(report.classes)
    table = Table(title=f"{count} images on {program.config.name}, engine {engine}", title_justify="left")
    table.add_column("what")
    table.add_column("value", justify="right")
    if report.right is not None:
        table.add_row("right", f"{report.right} of {count} ({report.right / count:.1%})")
    if report.cycles is None:
        return table
    cycles = sum(report.cycles)
    table.add_row("values equal to golden", ", ".join(report.compared))
    table.add_row("cycles of an image, equal to the model", f"{report.predicted:,}")
    table.add_row("simulated", f"{cycles:,} cycles in {report.seconds:.1f} s, {cycles / report.seconds:,.0f} a second")
    for name in ("busy_cycles", "weight_stalls", "activation_stalls", "bus_read_beats", "bus_write_beats"):
        table.add_row(f"{name.replace('_', ' ')} of the last image", f"{report.registers[name]:,}")
    return table
