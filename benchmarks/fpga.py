"""LUTs, flip-flops, multipliers and block RAM of the six variants' cores on FPGAs, by synthesis alone.

    python benchmarks/fpga.py [--sizes 16,32] [--families ecp5,xilinx7] [--variants ews,ews-cms]

A row that the output has already, of the same configuration and the same Yosys, is kept; delete the file to begin anew.
"""

import argparse
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from stages import stages

from golden.files import write_text
from hdl.config import VARIANTS, preset
from hdl.verilog import generate
from synth.boards import FAMILIES
from synth.fpga import count_resources, synthesise
from synth.yosys import quote

ROOT = Path(__file__).parent.parent


def count(config, family):
    """Row of one core."""
    started = time.monotonic()
    design = generate(config)
    with tempfile.TemporaryDirectory(prefix="mvq-fpga-") as folder:
        source = write_text(Path(folder) / f"{design.top}.v", design.text)
        cells = synthesise(config.name, FAMILIES[family], folder, [f"read_verilog {quote(source)}"], design.top)
    return {
        "variant": config.variant,
        "rows": config.rows,
        "columns": config.columns,
        "family": family,
        "used": count_resources(FAMILIES[family], cells, config.name),
        "cells": cells,
        "config_hash": config.hash,
        "pyosys": version("pyosys"),
        "seconds": round(time.monotonic() - started, 1),
    }


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="16")
    parser.add_argument("--families", default="ecp5,xilinx7")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "fpga.json")
    arguments = parser.parse_args()
    rows = json.loads(arguments.out.read_text())["rows"] if arguments.out.is_file() else []
    known = {(row["config_hash"], row["family"]): row for row in rows if row["pyosys"] == version("pyosys")}
    cases = [
        (preset(variant, int(size)), family)
        for size in arguments.sizes.split(",")
        for family in arguments.families.split(",")
        for variant in arguments.variants.split(",")
    ]
    found = []
    with stages(Console(stderr=True)) as tell:
        for done, (config, family) in enumerate(cases):
            tell("cores", done, len(cases))
            found.append(known.pop((config.hash, family), None) or count(config, family))
            content = {"hierarchy": "module boundaries kept", "rows": [*found, *known.values()]}
            write_text(arguments.out, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
