"""``mvq generate``: Verilog of a configuration, its JSON sidecar, and what goes with them, in a folder."""

from pathlib import Path

from golden.files import write_text
from hdl.memory.sram import BLACK_BOX_BITS
from hdl.verilog import generate

from .handover import handover_texts
from .register_map import c_header

__all__ = ["write_design"]


def write_design(
    config, out, unit=None, memories="behavioural", black_box_bits=BLACK_BOX_BITS, *, handover=(), clock_mhz=300.0
):
    """Write ``<top>.v`` and ``<top>.json`` of ``config`` into ``out``; with black boxes their models ``mvq_srams.v``,
    and with the unit ``accelerator`` the C header ``mvq_registers.h``.

    Parameters
    ----------
    config, unit, memories, black_box_bits : see :func:`hdl.verilog.generate`.
    handover, clock_mhz : files for other flows besides, see :func:`mvq.handover.handover_texts`.

    Returns
    -------
    (design, files) : ``files`` has the paths as ``verilog``, ``memory_models``, ``registers``, ``sidecar``, and by the
    kind of handover.
    """
    design = generate(config, unit, memories, black_box_bits)
    texts = {"verilog": (f"{design.top}.v", design.text)}
    if design.memory_models is not None:
        texts["memory_models"] = ("mvq_srams.v", design.memory_models)
    if unit == "accelerator":
        texts["registers"] = ("mvq_registers.h", c_header())
    texts |= handover_texts(design, handover, clock_mhz)
    texts["sidecar"] = (f"{design.top}.json", design.sidecar_text())
    return design, {kind: write_text(Path(out) / name, text) for kind, (name, text) in texts.items()}
