"""Writing files so that none is ever half there."""

import os
from pathlib import Path

__all__ = ["write_text"]


def write_text(path, text):
    """Write ``text`` to ``path`` through a temporary name beside it, with folders made as needed; return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
    return path
