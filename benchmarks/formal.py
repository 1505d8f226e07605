"""Everything that is proven for all inputs: netlists against their RTL, sparse tiles against dense ones.

    python benchmarks/formal.py [--only TEXT] [--timeout SECONDS] [--json docs/results/formal.json]

Netlists on NanGate45, at the sizes of the 16x16 presets: processing element, mask encoder, mask decoder, sparse tile
and dense tile, in both styles and both kinds of register files; behavioural tiles with 2 rows. Tiles at d = 16 and
4:16: bounded model checking with 2-bit weights and activations, induction with int8.

Each case is written to the file when it is done. ``--only`` runs the cases whose name holds TEXT and keeps the others
of the file.
"""

import argparse
import json
import os
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from stages import stages

from golden.files import write_text
from hdl.config import preset
from proofs.model_check import prove_tiles, small_tile
from proofs.tables import netlist_table, tile_table, verdict
from synth.equivalence import default_units, prove_unit
from synth.flow import Policy
from synth.liberty import NANGATE45, read_liberty, resolve_liberty

#: (style, register files).
POLICIES = (("structural", "clock_gated"), ("structural", "flip_flop"), ("behavioural", "clock_gated"))
#: (rows, words, method, bits, cycles, style).
TILES = (
    (1, 2, "bounded", 2, 8, "structural"),
    (1, 2, "induction", 8, None, "structural"),
    (2, 2, "induction", 8, None, "structural"),
)


def cases(timeout_s):
    """(name, kind, what proves it) of every case."""
    liberty = read_liberty(resolve_liberty(NANGATE45))
    for style, register_files in POLICIES:
        policy = Policy(style=style, register_files=register_files)
        for variant in ("ews-cms", "ews-cm"):
            # the solver cannot compare a behavioural sum of 17 numbers to gates: they have no nets in common
            config = preset(variant, 16, tile_rows=16 if style == "structural" else 2)
            for unit in default_units(config) if variant == "ews-cms" else ("dense_tile",):
                name = f"{unit} {config.tile_rows} rows {style} {register_files}"
                yield (
                    name,
                    "netlist",
                    lambda config=config, unit=unit, policy=policy: prove_unit(
                        config, unit, liberty, policy, timeout_s=timeout_s
                    ),
                )
    for rows, words, method, bits, cycles, style in TILES:
        config = small_tile(preset("ews-cms", 16, style=style), rows, words)
        name = f"tiles {rows} rows {words} words {method} {style}"
        yield (
            name,
            "tiles",
            lambda config=config, method=method, bits=bits, cycles=cycles: prove_tiles(
                config, method, bits=bits, cycles=cycles, timeout_s=timeout_s
            ),
        )


def main():
    """Prove, print tables and write the file; exit with 1 where something is not proven."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds for each run of a solver")
    parser.add_argument("--json", type=Path, default=Path("docs/results/formal.json"))
    arguments = parser.parse_args()
    console = Console(width=max(Console().width, 120))
    wanted = list(cases(arguments.timeout))
    old = json.loads(arguments.json.read_text())["cases"] if arguments.json.is_file() else {}
    found = {name: old[name] for name, _, _ in wanted if name in old}
    chosen = [case for case in wanted if arguments.only in case[0]]
    with stages(console) as tell:
        for done, (name, kind, prove) in enumerate(chosen):
            tell("proofs", done, len(chosen))
            found[name] = {"kind": kind, **prove()}
            content = {"machine": {"cores": os.cpu_count()}, "pyosys": version("pyosys")}
            content["cases"] = {name: found[name] for name, _, _ in wanted if name in found}
            write_text(arguments.json, json.dumps(content, indent=1) + "\n")
    netlists, tiles = ([case for case in found.values() if case["kind"] == kind] for kind in ("netlist", "tiles"))
    groups = {}
    for report in netlists:
        groups.setdefault((report["policy"]["style"], report["policy"]["register_files"]), []).append(report)
    for group in groups.values():
        console.print(netlist_table(group))
    if tiles:
        console.print(tile_table(tiles))
    if failure := verdict(netlists, tiles):
        raise SystemExit(failure)


if __name__ == "__main__":
    main()
