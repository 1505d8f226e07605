"""Tables on screen of the commands that run networks."""

from rich.table import Table

__all__ = ["run_table"]


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
