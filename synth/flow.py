"""From hierarchical Verilog to areas, with Yosys.

Designs of one comparison share most modules (tiles, register files, the codebook), so the flow compares module texts
across all designs, gives each distinct module to Yosys once, and adds the areas up through each design's instances.
What was synthesised once is taken from the user's cache after that.
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
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from hdl.config import MvqError
from hdl.latch import LATCH_MODULES
from synth import cache
from synth.liberty import DONT_USE, LibertyError
from synth.yosys import SynthesisError, quote, run_yosys

__all__ = ["HIERARCHIES", "REGISTER_FILES", "ModuleArea", "Netlist", "Policy", "block_of", "is_primitive"]
__all__ += ["split_modules", "synthesise", "synthesise_all"]

#: area-oriented mapping; measured on tiles and codebook 5 to 9 % below Yosys's default script, in less time.
ABC_SCRIPT = "strash;ifraig;scorr;dc2;dch -f;amap -F 4 -A 20"

#: load in fF of each output of a module while its gates are sized: some gates of the next module.
EDGE_LOAD = 10

#: modules of the generated Verilog that stand for adder cells of the library.
ADDERS = ("mvq_full_adder", "mvq_half_adder")

#: AND-OR modules of the generated Verilog: words, and bits of each; see :class:`hdl.register_file.AndOr`.
_AND_OR = re.compile(r"mvq_and_or_(\d+)x(\d+)")

#: what a register file may be made of; see :class:`Policy`.
REGISTER_FILES = ("clock_gated", "flip_flop", "latch")

#: what becomes of module boundaries, and how reports put it.
HIERARCHIES = {
    "shared": "module boundaries kept; each distinct module synthesised once; power-up values ignored",
    "hierarchical": "module boundaries kept; each instance synthesised with its constants; power-up values ignored",
    "flattened": "flattened; power-up values ignored",
}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a comparison is synthesised; the same for all of its rows, and written into its report.

    Attributes
    ----------
    register_files : ``clock_gated`` puts an integrated clock-gating cell before every group of flip-flops that share an
        enable, where the library has such a cell; ``flip_flop`` gives each flip-flop a multiplexer for its enable;
        ``latch`` is ``clock_gated``, with the words of register files as latches (see :mod:`hdl.latch`).
    hierarchy : ``shared`` synthesises each distinct module once, whatever its instances see at their ports;
        ``hierarchical`` keeps the boundaries but lets the constants at each instance's ports into a copy of the module;
        ``flattened`` dissolves them, so there are no areas by block.
    gated_bits : smallest group that gets a clock-gating cell.
    abc_script : technology mapping.
    style : how the generated Verilog is written; ``structural`` maps to the library's adder cells and is far below what
        Yosys makes of ``behavioural`` operators and memories. Equal to the bit.
    clock_ps : clock period for which gates are buffered and sized, inside each module; None leaves them as mapped.
    """

    register_files: Literal["clock_gated", "flip_flop", "latch"] = "clock_gated"
    hierarchy: Literal["shared", "hierarchical", "flattened"] = "shared"
    gated_bits: int = 3
    abc_script: str = ABC_SCRIPT
    style: Literal["structural", "behavioural"] = "structural"
    clock_ps: int | None = None

    def __post_init__(self):
        for name, legal in (("register_files", REGISTER_FILES), ("hierarchy", HIERARCHIES)):
            if getattr(self, name) not in legal:
                raise MvqError(f"{name} = {getattr(self, name)!r}: must be one of {', '.join(legal)}")
        if self.register_files == "latch" and self.style != "structural":
            raise MvqError(f"register_files = 'latch' needs style = 'structural', not {self.style!r}")

    @property
    def storage(self):
        """What the Verilog has to keep the words of register files in; see :func:`hdl.verilog.generate`."""
        return "latch" if self.register_files == "latch" else "flip_flop"

    def check(self, liberty):
        """Raise :class:`~synth.liberty.LibertyError` where the library lacks the cells that this needs."""
        if self.register_files == "latch" and liberty.latch is None:
            raise LibertyError(
                f"the library {liberty.path} has no latch, which register_files = 'latch' needs: "
                "use clock_gated or flip_flop, or another library"
            )

    def to_dict(self):
        """JSON form for the report."""
        return {
            "hierarchy": HIERARCHIES[self.hierarchy],
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
    area, sequential : area of its own cells, and of the flip-flops and latches among them, in um2.
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
        """(area, area of flip-flops and latches) of ``module`` (the top when None) with everything below it, in um2."""
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


def is_primitive(name):
    """True for a module of the generated Verilog that stands for cells of the library."""
    return name in ADDERS or name in LATCH_MODULES or _AND_OR.fullmatch(name) is not None


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
    found = re.finditer(
        r"^(?:\(\* blackbox \*\) )?module\s+(\\\S+|\w+).*?^endmodule\b[^\n]*", text, flags=re.MULTILINE | re.DOTALL
    )
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


def _latch_map(liberty):
    """Verilog for techmap: modules of :mod:`hdl.latch` become latches and gates of the library. The gates are cells
    from the start, so that nothing is merged into them that could glitch."""

    def gate(cell, otherwise, a, b):
        if cell is None:
            return f"assign open = {otherwise};"
        name, pins, output = cell
        return f"\\{name} gate (.{pins[0]}({a}), .{pins[1]}({b}), .{output}(open));"

    latch, enable, data, output, tied = liberty.latch
    ports = "".join(f", .{pin}(1'b{level})" for pin, level in tied.items())

    def cell(name, opened, d, q):
        return f"\\{latch} {name} (.{enable}({opened}), .{data}({d}), .{output}({q}){ports});"

    return f"""
module mvq_open_low(clk, write, open);
input clk, write; output open;
{gate(liberty.nor2, "~(clk | ~write)", "clk", "~write")}
endmodule
module mvq_open_high(clk, write, open);
input clk, write; output open; wire held;
{cell("hold", "~clk", "write", "held")}
{gate(liberty.and2, "clk & held", "clk", "held")}
endmodule
module mvq_latch_word(open, d, q);
parameter WIDTH = 1;
input open; input [WIDTH-1:0] d; output [WIDTH-1:0] q;
genvar i;
generate for (i = 0; i < WIDTH; i = i + 1) begin: bits
{cell("latch", "open", "d[i]", "q[i]")}
end endgenerate
endmodule
"""


def _and_or_map(liberty, names):
    """Verilog for techmap: AND-OR modules become AND-OR-INVERT cells, or gates where the library has none."""
    text = []
    for name in names:
        count, width = map(int, _AND_OR.fullmatch(name).groups())
        words = [f"words__{index}" for index in range(count)]
        if count in liberty.and_or:
            cell, pairs, output = liberty.and_or[count]
            pins = ", ".join(
                f".{data}({word}[i]), .{line}(lines[{index}])"
                for index, (word, (data, line)) in enumerate(zip(words, pairs, strict=True))
            )
            body = f"\\{cell} cell ({pins}, .{output}(none[i]));"
        else:
            products = " | ".join(f"({word}[i] & lines[{index}])" for index, word in enumerate(words))
            body = f"assign none[i] = ~({products});"
        text.append(
            f"module {name}({', '.join(words)}, lines, none);\ninput [{width - 1}:0] {', '.join(words)};\n"
            f"input [{count - 1}:0] lines; output [{width - 1}:0] none;\ngenvar i;\n"
            f"generate for (i = 0; i < {width}; i = i + 1) begin: bits {body} end endgenerate\nendmodule\n"
        )
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


def _commands(folder, liberty, policy, has_children, keep, top):
    library = f"-liberty {quote(liberty.path)} " + " ".join(f"-dont_use {cell}" for cell in DONT_USE)
    sizing = f"-D {policy.clock_ps} -constr {quote(folder / 'edges.sdc')} " if policy.clock_ps else ""
    commands = [
        f"read_liberty -lib -ignore_miss_func {quote(liberty.path)}",
        f"read_verilog {quote(folder / 'modules.v')}",
        *([f"read_verilog -lib {quote(folder / 'children.v')}"] if has_children else []),
        f"hierarchy -check -top {top}" if top else "hierarchy -check",
        "proc",
        # a chip powers up in no particular state: without this, registers that never leave it would vanish
        "setattr -unset init w:*",
    ]
    if policy.hierarchy == "flattened":
        commands.append("flatten")
    if policy.hierarchy == "hierarchical":
        commands += ["uniquify", "opt_clean", "opt_hier", "opt -full", "opt_hier", "opt -full", "opt_hier"]
    commands += [
        "synth -run begin:fine",
        f"techmap -map {quote(folder / 'primitives.v')}",
        "synth -noabc -run fine:check",
    ]
    if policy.register_files != "flip_flop":
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


def _primitive_map(liberty, names):
    """Verilog for techmap of all primitives; ``names`` are those that are used."""
    latches = _latch_map(liberty) if liberty.latch else ""
    return _adder_map(liberty) + latches + _and_or_map(liberty, [name for name in names if _AND_OR.fullmatch(name)])


def _run_job(what, names, modules, liberty, policy, folder, keep, top=None, boxes=()):
    """Synthesise the modules ``names`` of one design, or with ``top`` all of them at once; returns {name: ModuleArea},
    with the names that Yosys gave where modules were copied. ``boxes`` are modules that are cells without area."""
    folder.mkdir(parents=True, exist_ok=True)
    others = sorted({child for name in names for child in _children(name, modules)} - set(names))
    (folder / "modules.v").write_text("\n".join(modules[name] for name in names))
    (folder / "children.v").write_text("\n".join(modules[name] for name in others))
    (folder / "primitives.v").write_text(_primitive_map(liberty, modules))
    (folder / "enables.v").write_text(_enable_map())
    (folder / "map.abc").write_text(policy.mapping.replace(";", "\n") + "\n")
    if policy.clock_ps:
        (folder / "edges.sdc").write_text(f"set_driving_cell {liberty.buffer}\nset_load {EDGE_LOAD}\n")
    placed = [name for name in modules if not is_primitive(name) and name not in boxes]
    commands = _commands(folder, liberty, policy, bool(others), keep, top)
    instances = run_yosys(what, commands, folder, modules=None if top else names, placed=None if top else placed)
    log = folder / "yosys.log"
    try:
        report = json.loads((folder / "stat.json").read_text())
        found = {name.removeprefix("\\"): data for name, data in report["modules"].items()}
        areas = {}
        for name, below in instances.items():
            cells = dict(found[name]["num_cells_by_type"])
            for kind in {kind for _, kind in below}:
                cells.pop(kind)
            unmapped = sorted(cell for cell in cells if cell not in liberty.areas and cell not in boxes)
            if unmapped:
                raise SynthesisError(what, f"the library has no cell for {', '.join(unmapped)} in module {name}", log)
            registers = (*liberty.flip_flops, *liberty.latches)
            own, sequential = (
                sum(liberty.areas[cell] * number for cell, number in cells.items() if cell in of)
                for of in (liberty.areas, registers)
            )
            verilog = folder / "netlist.v" if keep else None
            areas[name] = ModuleArea(own, sequential, cells, tuple(map(tuple, below)), verilog)
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise SynthesisError(what, f"Yosys's report is incomplete ({error!r})", log) from error
    return areas


def _cache_key(key, liberty, policy):
    """Hash of all that the area of a module depends on. Policies that give Yosys the same text and commands share
    entries: most modules are the same with and without latches."""
    commands = [line.replace(str(liberty.path), "") for line in _commands(Path(), liberty, policy, True, False, None)]
    maps = _primitive_map(liberty, ["mvq_and_or_2x1", "mvq_and_or_3x1"]), _enable_map(), policy.mapping
    return cache.content_key(key, liberty.sha256, version("pyosys"), commands, maps)


def _cached(key):
    value = cache.load("synthesis", key)
    if value is None:
        return None
    return {
        name: ModuleArea(area, sequential, cells, tuple(map(tuple, instances)))
        for name, (area, sequential, cells, instances) in value.items()
    }


def _keep(key, areas):
    value = {name: [area.area, area.sequential, area.cells, area.instances] for name, area in areas.items()}
    cache.store("synthesis", key, value)


def synthesise_all(designs, liberty, policy=None, *, jobs=2, progress=None, folder=None, boxes=()):
    """Synthesise several designs; with the policy ``shared`` each distinct module once.

    Areas come from the cache where everything they depend on (module text, ports of what it places, library, policy,
    script, version of Yosys) is as it was.

    Parameters
    ----------
    designs : list of (name, Verilog text, top module).
    liberty : :class:`synth.liberty.Liberty`.
    policy : :class:`Policy`; the same for all designs.
    jobs : Yosys processes at a time.
    progress : called as ``progress(done, jobs)`` after each of them.
    folder : where logs and gate-level netlists stay, without the cache; when None, a temporary folder that is kept only
        after a failure.
    boxes : names of modules that are cells without area: SRAM macros, whose area is not Yosys's to tell. Their text in
        the Verilog says ``(* blackbox *)``.

    Returns
    -------
    list of :class:`Netlist`, in the order of ``designs``.

    Raises
    ------
    LibertyError : the library lacks cells that the policy needs.
    SynthesisError : any failure; no number of any design is returned then.
    """
    policy = policy or Policy()
    policy.check(liberty)
    split = []
    for name, text, top in designs:
        modules = split_modules(text)
        if top not in modules:
            raise MvqError(
                f"top module {top!r} of {name} is not in the Verilog, which holds {', '.join(modules) or 'no module'}"
            )
        split.append(modules)
    shared = policy.hierarchy == "shared"
    if shared:
        keys = [
            {name: _key(name, modules) for name in modules if not is_primitive(name) and name not in boxes}
            for modules in split
        ]
    else:
        keys = [{top: cache.content_key(modules, top)} for modules, (_, _, top) in zip(split, designs, strict=True)]
    entries = {key: _cache_key(key, liberty, policy) for own in keys for key in own.values()}
    found = {}
    if not folder:
        found = {key: areas for key, entry in entries.items() if (areas := _cached(entry)) is not None}
    claimed, work = set(found), []
    for index, (name, _, _) in enumerate(designs):
        fresh = [module for module, key in keys[index].items() if key not in claimed]
        claimed.update(keys[index].values())
        if fresh:
            size = sum(len(text) for text in split[index].values()) if not shared else 0
            work.append((size + sum(len(split[index][module]) for module in fresh), index, name, fresh))
    work.sort(reverse=True)
    base = Path(folder) if folder else Path(tempfile.mkdtemp(prefix="mvq-synth-"))

    def run(job):
        number, (_, index, name, fresh) = job
        top = None if shared else designs[index][2]
        names = fresh if shared else [module for module in split[index] if not is_primitive(module)]
        where = base / f"{number}-{name}"
        areas = _run_job(f"synthesis of {name}", names, split[index], liberty, policy, where, bool(folder), top, boxes)
        for module in fresh:
            key = keys[index][module]
            found[key] = {module: areas[module]} if shared else areas
            _keep(entries[key], found[key])
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
    netlists = []
    for index, (_, _, top) in enumerate(designs):
        modules = {}
        for name, key in keys[index].items():
            areas = found[key]
            modules |= {name: next(iter(areas.values()))} if shared else areas
        netlists.append(Netlist(top, modules))
    return netlists


def synthesise(text, top, liberty, policy=None, **options):
    """:func:`synthesise_all` for one design."""
    return synthesise_all([(top, text, top)], liberty, policy, **options)[0]
