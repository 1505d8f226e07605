"""RTL against netlist: a formal proof that every module does what its netlist does, for all inputs and all states.

As the flow synthesises each distinct module once, with its boundaries kept, so each is proven once. Registers and the
ports of placed modules become inputs and outputs of the module that holds them, on both sides, by name; what is left is
combinational, and Yosys's ``equiv_simple`` proves every output, next register value and clock with SAT. Nets of equal
name are proven first and then taken as inputs of what follows. docs/formal.md says why that is sound.
"""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version

from hdl.config import MvqError
from synth.flow import Policy, is_primitive, split_modules, synthesise
from synth.yosys import SynthesisError, YosysTimeout, quote, read_trace, run_yosys, scratch_folder

__all__ = ["ModuleProof", "default_units", "prove_module", "prove_unit", "prove_units"]

#: register files whose netlists can be proven; latches would need a model of two clock phases.
PROVABLE = ("clock_gated", "flip_flop")


@dataclass(frozen=True)
class ModuleProof:
    """What was found out about one module.

    Attributes
    ----------
    module : its name.
    status : ``proven``; ``differs``, with an example; or ``unproven``, when time ran out.
    cells : cells of the library in its netlist, without what it places.
    points : bits that were compared.
    method : ``equiv_simple``, or ``miter`` where nets inside did not help and outputs were compared directly.
    seconds : of this proof.
    detail : the example, or what is unproven; empty when proven.
    """

    module: str
    status: str
    cells: int
    points: int
    method: str
    seconds: float
    detail: str = ""

    def to_dict(self):
        """JSON form for reports."""
        return {**self.__dict__, "seconds": round(self.seconds, 2)}


def _clock_gate_models(liberty):
    """Verilog of the library's clock-gating cells: a latch that is open while the clock is low, and an AND. Libraries
    describe them by a state table, of which Yosys makes no gates."""
    text, models = liberty.path.read_text(encoding="latin-1"), []
    for cell in liberty.clock_gates:
        start = re.search(rf'\bcell\s*\(\s*"?{re.escape(cell)}"?\s*\)', text).end()
        end = re.compile(r"\bcell\s*\(").search(text, start)
        body = text[start : end.start() if end else len(text)]
        if not re.search(r'clock_gating_integrated_cell\s*:\s*"?latch_posedge', body):
            continue
        pins = {role: [] for role in ("clock", "enable", "test", "out")}
        for pin in re.split(r"\bpin\s*\(", body)[1:]:
            role = re.search(r'\bclock_gate_(clock|enable|test|out)_pin\s*:\s*"?true', pin)
            if role:
                pins[role[1]].append(re.match(r'\s*"?(\w+)', pin)[1])
        enables = pins["enable"] + pins["test"]
        if len(pins["clock"]) == len(pins["out"]) == 1 and enables:
            clock, out = *pins["clock"], *pins["out"]
            models.append(
                f"module \\{cell} (input {', '.join([clock, *enables])}, output {out});\nreg on;\n"
                f"always @* if (!{clock}) on = {' | '.join(enables)};\nassign {out} = on & {clock};\nendmodule\n"
            )
    return "".join(models)


def _side(name, source, boxes, gate):
    """Commands that leave module ``name`` of ``source`` in the design ``gold``, or ``gate`` with the library's cells
    replaced by their functions."""
    side = "gate" if gate else "gold"
    return [
        "design -reset",
        f"read_verilog {quote(source)}",
        *boxes,
        *(["techmap -map %cells", "rename -hide w:*.*"] if gate else []),
        f"hierarchy -check -top {name}",
        "proc",
        "setattr -unset init w:*",  # a chip powers up in no particular state
        "flatten",
        "memory_map",
        *(["formalff -declockgate"] if gate else []),
        "opt_clean -purge" if gate else "opt_clean",
        "dffunmap",  # an enable or a synchronous reset becomes a multiplexer, on both sides
        "opt_clean",
        "scc -expect 0",  # nets may be taken as inputs only where there is no combinational loop
        f"rename -top {side}",
        f"design -stash {side}",
    ]


def _prepare(name, rtl, netlist, liberty, folder):
    """Commands up to the two modules ``gold`` and ``gate``, combinational and with the same ports."""
    primitives = [module for module in rtl if is_primitive(module)]
    children = sorted(set(rtl) & set(re.findall(r"[\w$]+", rtl[name])) - {name, *primitives})
    (folder / "rtl.v").write_text("\n".join(rtl[module] for module in (name, *primitives)))
    (folder / "netlist.v").write_text(netlist[name])
    (folder / "children.v").write_text("\n".join(rtl[child] for child in children))
    boxes = [f"read_verilog -lib {quote(folder / 'children.v')}"] if children else []
    (folder / "clock_gates.v").write_text(_clock_gate_models(liberty))
    return [
        f"read_liberty -ignore_miss_func {quote(liberty.path)}",
        f"read_verilog -overwrite {quote(folder / 'clock_gates.v')}",
        "proc",
        "opt_merge",  # Yosys reads a flip-flop with Q and QN as two
        "rename -hide w:*",  # or pins of cells would compete with the netlist's own names
        "design -stash cells",
        *_side(name, folder / "rtl.v", boxes, gate=False),
        *_side(name, folder / "netlist.v", boxes, gate=True),
        "design -reset",
        "design -copy-from gold -as gold gold",
        "design -copy-from gate -as gate gate",
        *boxes,
        "expose -dff -evert -evert-dff -shared gold gate",
        "opt_clean",  # the registers, which nothing needs now
    ]


@dataclass(frozen=True)
class _Comparison:
    """What ``equiv_simple`` left of the module that ``equiv_make`` made.

    Attributes
    ----------
    points : bits compared. ``unproven`` : wires with a bit that is not proven equal. ``outputs`` : names of outputs.
    registers : wires driven by registers that are left, because the other side has none of that name.
    """

    points: int
    unproven: list
    outputs: set
    registers: list

    @classmethod
    def read(cls, path):
        module = json.loads(path.read_text())["modules"]["equiv"]
        cells = [(cell["type"], cell["connections"]) for cell in module["cells"].values()]
        pairs = [pins for kind, pins in cells if kind == "$equiv"]
        different = {pins["Y"][0] for pins in pairs if pins["A"] != pins["B"]}
        kept = {bit for kind, pins in cells if re.match(r"\$(_DFF|dff|_DLATCH|dlatch)", kind) for bit in pins["Q"]}

        def wires(bits):
            return sorted(name for name, net in module["netnames"].items() if bits.intersection(net["bits"]))

        outputs = {name for name, port in module["ports"].items() if port["direction"] == "output"}
        return cls(len(pairs), wires(different), outputs, wires(kept))


def _example(path):
    """Sentence about the counterexample that Yosys's ``sat`` left: outputs that differ, and the inputs."""
    values = {name: cycles[0] for name, cycles in read_trace(path).items()}

    def side(prefix):
        return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}

    rtl, netlist, inputs = side("gold_"), side("gate_"), side("in_")
    wrong = [
        f"{_wire(name)} is {rtl[name]}, in the netlist {netlist[name]}" for name in rtl if rtl[name] != netlist[name]
    ]
    given = [f"{_wire(name)} = {value}" for name, value in sorted(inputs.items()) if name not in ("clk", "rst")]
    return f"{'; '.join(wrong)}; with {', '.join(given)}"


def _wire(name):
    """Name of an everted wire in words: ``word_3.d`` is what ``word_3`` takes next."""
    return f"the next {name.removesuffix('.d')}" if name.endswith(".d") else name.removesuffix(".q")


def prove_module(name, rtl, netlist, liberty, *, timeout_s=600, folder=None):
    """Prove that a module's netlist does what its RTL does.

    Parameters
    ----------
    name : the module. ``rtl``, ``netlist`` : {module: Verilog}; other modules are taken as they are, equal on both
        sides.
    liberty : :class:`synth.liberty.Liberty` of the netlist.
    timeout_s : seconds for each of at most three runs of Yosys.
    folder : where the jobs and logs stay; when None, a temporary folder that is kept only after a failure.

    Returns
    -------
    :class:`ModuleProof`.

    Raises
    ------
    SynthesisError : Yosys failed, as on a netlist that is no Verilog or a cell that the library does not have.
    """
    with scratch_folder(folder) as scratch:
        return _prove_module(name, rtl, netlist, liberty, timeout_s, scratch)


def _prove_module(name, rtl, netlist, liberty, timeout_s, folder):
    started = time.perf_counter()
    commands, result = _prepare(name, rtl, netlist, liberty, folder), folder / "equiv.json"
    what = f"equivalence of {name}"
    kinds = re.findall(r"^  (\S+) \S+ \($", netlist[name], flags=re.MULTILINE)
    cells = sum(kind in liberty.areas or kind in liberty.clock_gates for kind in kinds)
    points, hide, method = 0, [], "equiv_simple"

    def proof(status, detail=""):
        return ModuleProof(name, status, cells, points, method, time.perf_counter() - started, detail)

    try:
        for _ in range(2):
            # nets that turn out to differ, as after an optimisation that reused a name, are no points the second time
            make = ["equiv_make gold gate equiv", "hierarchy -top equiv", "opt_clean"]
            prove = ["equiv_simple", f"write_json {quote(result)}"]
            run_yosys(what, [*commands, *hide, *make, *prove], folder, timeout_s=timeout_s)
            found = _Comparison.read(result)
            points = found.points
            if not found.unproven:
                return proof("proven")
            if found.registers:
                return proof("unproven", f"only one side has the registers {', '.join(found.registers)}")
            inner = [wire for wire in found.unproven if wire not in found.outputs]
            if not inner:
                break
            hide = [f"rename -hide gate/w:{wire}" for wire in inner]
        method, example = "miter", folder / "example.json"
        example.unlink(missing_ok=True)
        miter = [
            "miter -equiv -make_outputs -flatten gold gate miter",
            "hierarchy -top miter",
            f"sat -verify -prove trigger 0 -show-ports -dump_json {quote(example)}",
        ]
        try:
            run_yosys(what, [*commands, *miter], folder, timeout_s=timeout_s)
        except SynthesisError:
            if not example.is_file():
                raise
            return proof("differs", _example(example))
        return proof("proven")
    except YosysTimeout:
        return proof("unproven", f"no result within {timeout_s} s")


def prove_unit(config, unit, liberty, policy=None, *, timeout_s=600, jobs=2, progress=None, folder=None):
    """Synthesise ``unit`` of a configuration and prove each of its modules against its netlist.

    Parameters
    ----------
    config : :class:`hdl.config.ArrayConfig`; its ``style`` is replaced by the policy's.
    unit : see :data:`hdl.units.UNITS`. ``liberty`` : :class:`synth.liberty.Liberty`.
    policy : :class:`synth.flow.Policy`.
    timeout_s : see :func:`prove_module`. ``jobs`` : Yosys processes at a time.
    progress : called as ``progress(done, modules)`` after each module.
    folder : where netlists, jobs and logs stay; when None, a temporary folder that is kept only after a failure.

    Returns
    -------
    JSON-ready dictionary: ``modules`` is a list of :meth:`ModuleProof.to_dict`, ``status`` the worst of theirs.

    Raises
    ------
    MvqError : register files that cannot be proven, or a failed synthesis.
    """
    policy = policy or Policy()
    if policy.register_files not in PROVABLE:
        raise MvqError(
            f"register_files = {policy.register_files!r}: equivalence is proven for {' and '.join(PROVABLE)} only"
        )
    with scratch_folder(folder) as scratch:
        return _prove_unit(config, unit, liberty, policy, timeout_s, jobs, progress, scratch)


def _prove_unit(config, unit, liberty, policy, timeout_s, jobs, progress, folder):
    from hdl.verilog import generate  # loads Amaranth

    started = time.perf_counter()
    config = config.replace(style=policy.style)
    design = generate(config, unit)
    mapped = folder / "netlist"
    synthesise(design.text, design.top, liberty, policy, jobs=1, folder=mapped)
    rtl = split_modules(design.text)
    netlist = split_modules("\n".join(path.read_text() for path in sorted(mapped.glob("*/netlist.v"))))
    names = [name for name in design.modules if not is_primitive(name)]
    _check_loops(design, folder / "loops")

    def prove(name):
        return prove_module(name, rtl, netlist, liberty, timeout_s=timeout_s, folder=folder / name)

    proofs = []
    with ThreadPoolExecutor(jobs) as pool:
        for done, proof in enumerate(pool.map(prove, names), 1):
            proofs.append(proof)
            if progress:
                progress(done, len(names))
    found = {proof.status for proof in proofs}
    return {
        "unit": unit,
        "config": config.to_dict(),
        "config_hash": config.hash,
        "policy": policy.to_dict(),
        "liberty": {"name": liberty.name, "sha256": liberty.sha256},
        "pyosys": version("pyosys"),
        "status": next(status for status in ("differs", "unproven", "proven") if status in found),
        "modules": [proof.to_dict() for proof in proofs],
        "seconds": round(time.perf_counter() - started, 2),
    }


def default_units(config):
    """Units of a configuration that are worth a proof: processing element, tile, mask encoder and decoder."""
    masks = ["mask_encoder", "mask_decoder"] if config.has_masks else []
    return ["processing_element", f"{config.tile}_tile", *masks]


def prove_units(config, units, liberty, policy=None, *, progress=None, **options):
    """:func:`prove_unit` for several units; ``progress`` is called as ``progress(stage, done, total)``."""

    def tell(stage, done, total):
        if progress:
            progress(stage, done, total)

    reports = []
    for done, unit in enumerate(units):
        tell("units", done, len(units))
        report = prove_unit(
            config, unit, liberty, policy, progress=lambda proven, modules: tell("modules", proven, modules), **options
        )
        reports.append(report)
    tell("units", len(units), len(units))
    return reports


def _check_loops(design, folder):
    """Raise SynthesisError where the flattened RTL has a combinational loop: modules could not be proven one by one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rtl.v").write_text(design.text)
    commands = [f"read_verilog {quote(folder / 'rtl.v')}", f"hierarchy -check -top {design.top}"]
    commands += ["proc", "flatten", "opt_clean", "scc -expect 0"]
    run_yosys(f"search for loops in {design.top}", commands, folder)
