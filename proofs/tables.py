"""Proofs as tables for the screen."""

from rich.table import Table

from proofs.model_check import METHODS

__all__ = ["netlist_table", "tile_table", "verdict"]

_COLOURS = {"proven": "green", "unproven": "yellow", "differs": "red"}


def _coloured(status):
    return f"[{_COLOURS[status]}]{status}[/]"


def netlist_table(reports):
    """RTL against netlist: a row for each module of each unit (:func:`synth.equivalence.prove_unit`)."""
    policy, liberty = reports[0]["policy"], reports[0]["liberty"]
    table = Table(
        title="RTL against netlist",
        caption=f"{liberty['name']}, {policy['style']}, register files {policy['register_files']}; "
        f"pyosys {reports[0]['pyosys']}",
    )
    for name in ("unit", "module", "cells", "bits compared", "method", "seconds", "result"):
        table.add_column(name, justify="right" if name in ("cells", "bits compared", "seconds") else "left")
    for report in reports:
        for proof in report["modules"]:
            numbers = (f"{proof['cells']:,}", f"{proof['points']:,}")
            last = (proof["method"], f"{proof['seconds']:.1f}", _coloured(proof["status"]))
            table.add_row(report["unit"], proof["module"], *numbers, *last)
        table.add_section()
    return table


def tile_table(reports):
    """Sparse tile against dense tile: a row for each proof (:func:`proofs.model_check.prove_tiles`)."""
    table = Table(title="Sparse tile = dense tile on masked weights", caption=f"pyosys {reports[0]['pyosys']}")
    for name in ("tile", "weights, activations", "method", "cycles", "seconds", "result"):
        table.add_column(name, justify="right" if name in ("cycles", "seconds") else "left")
    for report in reports:
        bits = f"{report['weight_bits']} and {report['activation_bits']} bits"
        cycles = "all" if report["cycles"] is None else str(report["cycles"])
        last = (METHODS[report["method"]], cycles, f"{report['seconds']:.1f}", _coloured(report["status"]))
        table.add_row(report["tile"], bits, *last)
    return table


def verdict(netlists, tiles):
    """Sentence about what is not proven, or None."""
    for report in netlists:
        for proof in report["modules"]:
            if proof["status"] == "differs":
                return f"the netlist of {proof['module']} in {report['unit']} differs from its RTL: {proof['detail']}"
    for report in tiles:
        if report["status"] == "differs":
            return f"the sparse tile differs from the dense one: {report['example']['summary']}"
    open_proofs = [
        f"{proof['module']} in {report['unit']} ({proof['detail']})"
        for report in netlists
        for proof in report["modules"]
        if proof["status"] == "unproven"
    ]
    for report in tiles:
        if report["status"] == "unproven":
            reached = "" if report["cycles"] is None else f", proven for {report['cycles']} cycles"
            open_proofs.append(f"the tiles by {report['method']} (time ran out{reached})")
    return f"unproven: {'; '.join(open_proofs)}" if open_proofs else None
