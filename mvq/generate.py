"""``mvq generate``: Verilog of a configuration and its JSON sidecar, in a folder."""

from pathlib import Path

from hdl.verilog import generate
from mvq.files import write_text

__all__ = ["write_design"]


def write_design(config, out, unit=None):
    """Write ``<top>.v`` and ``<top>.json`` of ``config`` into ``out``; returns their paths."""
    design = generate(config, unit)
    out = Path(out)
    paths = [out / f"{design.top}.v", out / f"{design.top}.json"]
    write_text(paths[0], design.text)
    write_text(paths[1], design.sidecar_text())
    return paths
