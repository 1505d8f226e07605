"""Runs Yosys commands in a process of its own, so that a crash or ``exit`` in Yosys cannot take the caller with it.

``python -m synth.yosys_worker job.json`` with ``{"commands": [], "modules": [], "placed": [], "result": path}``. Yosys
logs to standard output. The result file appears only after every command succeeded; it lists, for each of ``modules``,
the instances of modules in ``placed``; null stands for all modules that are not cells of the library.
"""

import json
import os
import sys
from pathlib import Path

from pyosys import libyosys


def _name(identifier):
    return str(identifier).removeprefix("\\")


def _main():
    job = json.loads(Path(sys.argv[1]).read_text())
    design = libyosys.Design()
    for command in job["commands"]:
        libyosys.run_pass(command, design)
    instances = {}
    if job["modules"] != []:
        modules = {_name(name): module for name, module in design.modules_.items()}
        every = [name for name, module in modules.items() if not module.get_blackbox_attribute()]
        placed = set(every if job["placed"] is None else job["placed"])
        for name in every if job["modules"] is None else job["modules"]:
            cells = modules[name].cells_.values()
            instances[name] = [(_name(cell.name), kind) for cell in cells if (kind := _name(cell.type)) in placed]
    result = Path(job["result"])
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps({"instances": instances}))
    os.replace(partial, result)


if __name__ == "__main__":
    _main()
