"""From hierarchical Verilog to areas: every distinct module is synthesised once, with its boundaries kept.

Designs of one comparison share most modules (tiles, register files, the codebook), so the flow compares module texts
across all designs, gives each distinct module to Yosys once, and adds the areas up through each design's instances.
"""

import fnmatch
import hashlib
import json
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from hdl.config import MvqError
from synth.liberty import DONT_USE
from synth.yosys import SynthesisError, quote, run_yosys

__all__ = ["ModuleArea", "Netlist", "Policy", "block_of", "split_modules", "synthesise", "synthesise_all"]

#: area-oriented mapping; measured on tiles and codebook 5 to 9 % below Yosys's default script, in less time.
ABC_SCRIPT = "strash;ifraig;scorr;dc2;dch -f;amap -F 4 -A 20"

#: load in fF of each output of a module while its gates are sized: some gates of the next module.
EDGE_LOAD = 10

#: modules of the generated Verilog that stand for adder cells of the library.
ADDERS = ("mvq_full_adder", "mvq_half_adder")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a comparison is synthesised; the same for all of its rows, and written into its report.

    Attributes
    ----------
    register_files : ``clock_gated`` puts an integrated clock-gating cell before every group of flip-flops that share an
        enable, where the library has such a cell; ``flip_flop`` gives each flip-flop a multiplexer for its enable.
    gated_bits : smallest group that gets a clock-gating cell.
    abc_script : technology mapping.
    style : how the generated Verilog is written; ``structural`` maps to the library's adder cells and is far below what
        Yosys makes of ``behavioural`` operators and memories. Equal to the bit.
    clock_ps : clock period for which gates are buffered and sized, inside each module; None leaves them as mapped.
    """

    register_files: Literal["clock_gated", "flip_flop"] = "clock_gated"
    gated_bits: int = 3
    abc_script: str = ABC_SCRIPT
    style: Literal["structural", "behavioural"] = "structural"
    clock_ps: int | None = None
    hierarchy = "module boundaries kept; each distinct module synthesised once; power-up values ignored"

    def __post_init__(self):
        if self.register_files not in ("clock_gated", "flip_flop"):
            raise MvqError(f"register_files = {self.register_files!r}: must be one of clock_gated, flip_flop")

    def to_dict(self):
        """JSON form for the report."""
        return {
            "hierarchy": self.hierarchy,
            "register_files": self.register_files,
            "gated_bits": self.gated_bits,
            "abc_script": self.abc_script,
            "style": self.style,
            **({"clock_ps": self.clock_ps} if self.clock_ps else {}),
        }

    @property
    def mapping(self):
        """Commands for abc: technology mapping, then buffering and sizing where a clock asks for it. There dc2 is left
        out, which saves area by letting carries ripple: 2 % of a requantiser, for 40 % of delay."""
        if not self.clock_ps:
            return self.abc_script
        return (
            self.abc_script.replace("dc2;", "") + f";buffer -c;topo;upsize -D {self.clock_ps};dnsize -D {self.clock_ps}"
        )


@dataclass(frozen=True)
class ModuleArea:
    """One synthesised module, without what it places.

    Attributes
    ----------
    area, sequential : area of its own cells, and of the flip-flops among them, in um2.
    cells : cell -> count.
    instances : (instance, module) of everything it places.
    verilog : file that holds its gates, where netlists are kept.
    """

    area: float
    sequential: float
    cells: dict
    instances: tuple
    verilog: Path | None = None


@dataclass(frozen=True)
class Netlist:
    """Areas of one design.

    Attributes
    ----------
    top : name of the top module.
    modules : name -> :class:`ModuleArea`.
    """

    top: str
    modules: dict
    _totals: dict = field(default_factory=dict, repr=False, compare=False)

    def total(self, module=None):
        """(area, flip-flop area) of ``module`` (the top when None) with everything below it, in um2."""
        name = module or self.top
        if name not in self._totals:
            own = self.modules[name]
            below = [self.total(child) for _, child in own.instances]
            self._totals[name] = (own.area + sum(area for area, _ in below), own.sequential + sum(s for _, s in below))
        return self._totals[name]

    @cached_property
    def counts(self):
        """Module -> how often the design holds it."""
        counts = dict.fromkeys(self.modules, 0)

        def visit(name, times):
            counts[name] += times
            children = {}
            for _, child in self.modules[name].instances:
                children[child] = children.get(child, 0) + 1
            for child, number in children.items():
                visit(child, times * number)

        visit(self.top, 1)
        return counts

    @cached_property
    def cells(self):
        """Cell of the library -> count in the whole design."""
        cells = {}
        for name, times in self.counts.items():
            for cell, number in self.modules[name].cells.items():
                cells[cell] = cells.get(cell, 0) + times * number
        return cells

    def blocks(self, patterns, default="control"):
        """Area by block.

        Parameters
        ----------
        patterns : instance path below the top (dots between levels, shell wildcards in each) -> block. The longest
            match counts, for the instance and all below it.
        default : block of what no pattern matches.
        """
        deepest = max((pattern.count(".") for pattern in patterns), default=-1)
        areas = dict.fromkeys([*patterns.values(), default], 0.0)

        def visit(name, path, block):
            if len(path) > deepest:
                areas[block] += self.total(name)[0]
                return
            areas[block] += self.modules[name].area
            for instance, child in self.modules[name].instances:
                inside = [*path, re.sub(r"\$\d+$", "", instance)]  # Amaranth's suffix where a signal has the same name
                visit(child, inside, block_of(inside, patterns) or block)

        visit(self.top, [], default)
        return areas


def block_of(path, patterns):
    """Block of the instance at ``path`` (a list), or None; see :meth:`Netlist.blocks`."""
    matches = [
        pattern
        for pattern in patterns
        if pattern.count(".") == len(path) - 1
        and all(fnmatch.fnmatchcase(part, glob) for part, glob in zip(path, pattern.split("."), strict=True))
    ]
    return patterns[max(matches, key=len)] if matches else None


def split_modules(text):
    """{module name: its text}."""
    found = re.finditer(r"^module\s+(\\\S+|\w+).*?^endmodule\b[^\n]*", text, flags=re.MULTILINE | re.DOTALL)
    return {match[1].removeprefix("\\"): match[0] for match in found}


def _children(name, modules):
    words = set(re.findall(r"[\w$]+|\\\S+", modules[name]))
    return [other for other in modules if other != name and (other in words or "\\" + other in words)]


def _key(name, modules):
    """Hash of everything that the synthesis of a module depends on: its text and the ports of what it places."""
    text = [modules[name]]
    for child in sorted(_children(name, modules)):
        text += [child, *re.findall(r"^.*\b(?:input|output|inout)\b.*$", modules[child], flags=re.MULTILINE)]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()


def _adder_map(liberty):
    """Verilog for techmap: adder modules become cells, except where an input is constant and gates are smaller."""
    text = []
    for module, inputs, cell, total, carry in (
        ("mvq_full_adder", ("a", "b", "ci"), liberty.full_adder, "a ^ b ^ ci", "(a & b) | (ci & (a | b))"),
        ("mvq_half_adder", ("a", "b"), liberty.half_adder, "a ^ b", "a & b"),
    ):
        names = ", ".join(inputs)
        gates = f"assign s = {total}; assign co = {carry};"
        if cell is None:
            body = gates
        else:
            name, pins, sum_pin, carry_pin = cell
            ports = ", ".join(
                f".{pin}({port})" for pin, port in zip((*pins, sum_pin, carry_pin), (*inputs, "s", "co"), strict=True)
            )
            constant = " | ".join(f"_TECHMAP_CONSTMSK_{port}_" for port in inputs)
            masks = " ".join(f"parameter _TECHMAP_CONSTMSK_{port}_ = 1'b0;" for port in inputs)
            adder = f"\\{name} _TECHMAP_REPLACE_ ({ports});"
            body = f"{masks}\ngenerate if ({constant}) begin {gates} end else begin {adder} end endgenerate"
        text.append(f"module {module}({names}, s, co);\ninput {names}; output s, co;\n{body}\nendmodule\n")
    return "".join(text)


def _enable_map():
    """Verilog for techmap: a synchronous reset moves into data and enable, or Yosys would not gate that register."""
    text = []
    for clock in "NP":
        for reset in "NP":
            for value in "01":
                for enable in "NP":
                    on_reset = "R" if reset == "P" else "~R"
                    on_enable = "E" if enable == "P" else "~E"
                    data = f"{on_reset} ? 1'b{value} : D"
                    ports = "input C, R, E, D; output Q;"
                    for kind, gate in (("SDFFE", f"{on_reset} | {on_enable}"), ("SDFFCE", on_enable)):
                        text.append(
                            f"module \\$_{kind}_{clock}{reset}{value}{enable}_ (C, R, E, D, Q);\n{ports}\n"
                            f"\\$_DFFE_{clock}P_ _TECHMAP_REPLACE_ (.C(C), .E({gate}), .D({data}), .Q(Q));\nendmodule\n"
                        )
    return "".join(text)


def _commands(folder, liberty, policy, has_children, keep):
    library = f"-liberty {quote(liberty.path)} " + " ".join(f"-dont_use {cell}" for cell in DONT_USE)
    sizing = f"-D {policy.clock_ps} -constr {quote(folder / 'edges.sdc')} " if policy.clock_ps else ""
    commands = [
        f"read_liberty -lib -ignore_miss_func {quote(liberty.path)}",
        f"read_verilog {quote(folder / 'modules.v')}",
        *([f"read_verilog -lib {quote(folder / 'children.v')}"] if has_children else []),
        "hierarchy -check",
        "proc",
        # a chip powers up in no particular state: without this, registers that never leave it would vanish
        "setattr -unset init w:*",
        "synth -run begin:fine",
        f"techmap -map {quote(folder / 'adders.v')}",
        "synth -noabc -run fine:check",
    ]
    if policy.register_files == "clock_gated":
        commands += [
            f"techmap -map {quote(folder / 'enables.v')}",
            "simplemap",
            "opt_merge",
            "opt_clean",  # one name for one enable, by which clockgate makes its groups
            f"clockgate {library} -min_net_size {policy.gated_bits}",
        ]
    commands += [
        f"dfflibmap {library}",
        "opt_expr",
        "opt_merge",
        "opt_clean",
        f"abc {sizing}{library} -script {quote(folder / 'map.abc')}",
        "opt_clean -purge",
    ]
    if keep:
        commands.append(f"write_verilog -noattr -noexpr {quote(folder / 'netlist.v')}")
    return [*commands, f"tee -q -o {quote(folder / 'stat.json')} stat {library.split(' -dont_use')[0]} -json"]


def _run_job(what, names, modules, liberty, policy, folder, keep):
    """Synthesise the modules ``names`` of one design; returns {name: ModuleArea}."""
    folder.mkdir(parents=True, exist_ok=True)
    others = sorted({child for name in names for child in _children(name, modules)} - set(names))
    (folder / "modules.v").write_text("\n".join(modules[name] for name in names))
    (folder / "children.v").write_text("\n".join(modules[name] for name in others))
    (folder / "adders.v").write_text(_adder_map(liberty))
    (folder / "enables.v").write_text(_enable_map())
    (folder / "map.abc").write_text(policy.mapping.replace(";", "\n") + "\n")
    if policy.clock_ps:
        (folder / "edges.sdc").write_text(f"set_driving_cell {liberty.buffer}\nset_load {EDGE_LOAD}\n")
    placed = [name for name in modules if name not in ADDERS]
    commands = _commands(folder, liberty, policy, bool(others), keep)
    instances = run_yosys(what, commands, folder, modules=names, placed=placed)
    log = folder / "yosys.log"
    try:
        report = json.loads((folder / "stat.json").read_text())
        found = {name.removeprefix("\\"): data for name, data in report["modules"].items()}
        areas = {}
        for name in names:
            cells = dict(found[name]["num_cells_by_type"])
            below = [(child, cells.pop(child)) for child in {kind for _, kind in instances[name]}]
            # Yosys adds up the modules it knows: take them off again; a module that is only wires has no area
            own, sequential = (
                found[name].get(key, 0.0)
                - sum(number * found[child].get(key, 0.0) for child, number in below if child in found)
                for key in ("area", "sequential_area")
            )
            unmapped = sorted(cell for cell in cells if cell not in liberty.areas and cell not in liberty.clock_gates)
            if unmapped:
                raise SynthesisError(what, f"the library has no cell for {', '.join(unmapped)} in module {name}", log)
            areas[name] = ModuleArea(
                max(own, 0.0),
                max(sequential, 0.0),
                cells,
                tuple(map(tuple, instances[name])),
                folder / "netlist.v" if keep else None,
            )
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise SynthesisError(what, f"Yosys's report is incomplete ({error!r})", log) from error
    return areas


def synthesise_all(designs, liberty, policy=None, *, jobs=2, progress=None, folder=None):
    """Synthesise several designs, each distinct module once.

    Parameters
    ----------
    designs : list of (name, Verilog text, top module).
    liberty : :class:`synth.liberty.Liberty`.
    policy : :class:`Policy`; the same for all designs.
    jobs : Yosys processes at a time.
    progress : called as ``progress(done, jobs)`` after each of them.
    folder : where logs and gate-level netlists stay; when None, a temporary folder that is kept only after a failure.

    Returns
    -------
    list of :class:`Netlist`, in the order of ``designs``.

    Raises
    ------
    SynthesisError : any failure; no number of any design is returned then.
    """
    policy = policy or Policy()
    split = []
    for name, text, top in designs:
        modules = split_modules(text)
        if top not in modules:
            raise MvqError(
                f"top module {top!r} of {name} is not in the Verilog, which holds {', '.join(modules) or 'no module'}"
            )
        split.append(modules)
    keys = [{name: _key(name, modules) for name in modules if name not in ADDERS} for modules in split]
    claimed, work = set(), []
    for index, (name, _, _) in enumerate(designs):
        fresh = [module for module, key in keys[index].items() if key not in claimed]
        claimed.update(keys[index].values())
        if fresh:
            work.append((sum(len(split[index][module]) for module in fresh), index, name, fresh))
    work.sort(reverse=True)
    base = Path(folder) if folder else Path(tempfile.mkdtemp(prefix="mvq-synth-"))
    found = {}

    def run(job):
        number, (_, index, name, fresh) = job
        areas = _run_job(
            f"synthesis of {name}", fresh, split[index], liberty, policy, base / f"{number}-{name}", bool(folder)
        )
        for module, area in areas.items():
            found[keys[index][module]] = area
        return number

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(run, job) for job in enumerate(work)]
        try:
            for done, future in enumerate(futures, 1):
                future.result()
                if progress:
                    progress(done, len(work))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    if not folder:
        shutil.rmtree(base)
    return [
        Netlist(top, {name: found[key] for name, key in keys[index].items()})
        for index, (_, _, top) in enumerate(designs)
    ]


def synthesise(text, top, liberty, policy=None, **options):
    """:func:`synthesise_all` for one design."""
    return synthesise_all([(top, text, top)], liberty, policy, **options)[0]
