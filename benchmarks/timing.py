"""Fmax of the six variants, and whether they meet a clock, with OpenSTA.

    python benchmarks/timing.py [--sizes 16,32,64] [--variants ws,ews,...] [--all-at 16] [--clock-mhz 300]
                                [--liberty nangate45] [--json FILE]

The cores with the presets' tiles of 16 rows, gates sized for the clock. A second run comes from the cache.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from rich.console import Console
from selection import add_selection, selected_presets
from stages import stages

from golden.files import write_text
from hdl.config import MvqError
from synth.timing import timing_report, timing_table, unmet


def main():
    """Time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_selection(parser)
    parser.add_argument("--clock-mhz", type=float, default=300)
    parser.add_argument("--liberty", default="nangate45")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, default=Path("docs/results/timing.json"))
    arguments = parser.parse_args()
    console = Console(width=max(Console().width, 150))
    started = time.monotonic()
    try:
        with stages(console) as tell:
            configs = selected_presets(arguments)
            report = timing_report(configs, arguments.clock_mhz, arguments.liberty, jobs=arguments.jobs, progress=tell)
    except MvqError as error:
        sys.exit(f"error: {error}")
    console.print(timing_table(report))
    report["seconds"] = round(time.monotonic() - started, 1)
    write_text(arguments.json, json.dumps(report, indent=1) + "\n")
    console.print(f"{report['seconds']:.0f} s; written to {arguments.json}")
    if late := unmet(report):
        sys.exit(late)


if __name__ == "__main__":
    main()
