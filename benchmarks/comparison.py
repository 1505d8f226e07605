"""The whole comparison of the paper's arrays: area, timing and power of six variants at three sizes, and one page.

    python benchmarks/comparison.py [--sizes 16,32,64] [--variants ws,ews,...] [--from-nothing] [--liberty nangate45]
                                    [--jobs 2] [--data ../shared/data] [--out docs/results] [--page FILE]

Runs `mvq area`, benchmarks/timing.py, benchmarks/energy.py and `mvq compare` one after the other, as a user would, and
writes how long each took to comparison.json, from nothing or from the cache. --from-nothing takes an empty cache, but
for what was fetched from package registries. What the commands write is theirs: area.json, timing.json, energy.json.
EWS has to be among the variants. What fails ends it: a clock that is not met, too, after timing.json is written.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from selection import add_variants_and_sizes

from golden.files import cache_folder, write_text

#: folders of the cache that hold what was fetched, not what was made.
FETCHED = ("npm", "nangate45")


def _seconds(command, environment):
    """Run a command; its wall-clock time."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, *map(str, command)], env=environment)
    if done.returncode:
        sys.exit(f"error: {' '.join(map(str, command))} ended with exit code {done.returncode}")
    return round(time.monotonic() - started, 1)


def main():
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_variants_and_sizes(parser)
    parser.add_argument("--from-nothing", action="store_true", help="with an empty cache")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--liberty", default="nangate45")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--page", type=Path, default=Path("out/comparison.html"))
    arguments = parser.parse_args()
    out, here = arguments.out, Path(__file__).parent
    environment, fresh = dict(os.environ), None
    if arguments.from_nothing:
        fresh = Path(tempfile.mkdtemp(prefix="mvq-nothing-"))
        for name in FETCHED:
            if cache_folder(name).is_dir():
                shutil.copytree(cache_folder(name), fresh / "mvq" / name)
        environment["XDG_CACHE_HOME"] = str(fresh)
    which = ("--sizes", arguments.sizes, "--variants", arguments.variants)
    shared = ("--liberty", arguments.liberty, "--jobs", arguments.jobs)
    reports = [out / f"{name}.json" for name in ("area", "timing", "energy")]
    steps = {
        "area": ("-m", "mvq", "area", *which, *shared, "--json", reports[0], "--png"),
        "timing": (here / "timing.py", *which, *shared, "--json", reports[1]),
        "power": (here / "energy.py", *which, *shared, "--data", arguments.data, "--out", out),
        "page": ("-m", "mvq", "compare", *reports, "--html", arguments.page),
    }
    try:
        seconds = {name: _seconds(command, environment) for name, command in steps.items()}
    finally:
        if fresh:
            shutil.rmtree(fresh)
    written = out / "comparison.json"
    found = json.loads(written.read_text()) if written.is_file() else {}
    key = "from nothing" if fresh else "from cache"
    configurations = len(json.loads(reports[0].read_text())["rows"])
    found[key] = {"seconds": seconds, "total": round(sum(seconds.values()), 1), "configurations": configurations}
    found[key] |= {"cores": os.cpu_count(), "jobs": arguments.jobs}
    write_text(written, json.dumps(found, indent=1) + "\n")
    table = Table(title=f"{configurations} configurations, {key}")
    for heading in (*seconds, "total"):
        table.add_column(heading, justify="right")
    table.add_row(*(f"{value:.1f} s" for value in (*seconds.values(), found[key]["total"])))
    Console().print(table)
    Console().print(f"written to {written}; the page is {arguments.page}")


if __name__ == "__main__":
    main()
