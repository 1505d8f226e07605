"""``mvq generate``: Verilog of a configuration and its JSON sidecar, in a folder."""

from pathlib import Path

from golden.files import write_text
from hdl.verilog import generate

__all__ = ["write_design"]


def write_design(config, out, unit=None):
    """Write ``<top>.v`` and ``<top>.json`` of ``config`` into ``out``; returns the design and their paths."""
    design = generate(config, unit)
    out = Path(out)
    verilog = write_text(out / f"{design.top}.v", design.text)
    sidecar = write_text(out / f"{design.top}.json", design.sidecar_text())
    return design, verilog, sidecar
