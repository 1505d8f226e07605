"""Files that are whole or not there (written under a temporary name, then renamed), and the folder of the cache."""

import os
from contextlib import contextmanager, suppress
from pathlib import Path

from hdl.config import MvqError

__all__ = ["cache_folder", "replacing", "write_text"]


def cache_folder(name):
    """Folder ``name`` of what can be made again, in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "mvq" / name


@contextmanager
def replacing(path, error=MvqError, folders=True):
    """Give a temporary path beside ``path`` to write to, and rename it to ``path`` when that went well.

    Missing folders are made, unless ``folders`` is False. After a failure nothing is left of the temporary file, and
    ``path`` is as it was.

    Raises
    ------
    error : the file cannot be written, as on a full disk; names it and says why.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        if folders:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as failure:
        raise error(f"{path} cannot be written ({failure.strerror})") from failure
    finally:
        with suppress(OSError):  # missing after the rename, or never made
            temporary.unlink()


def write_text(path, text):
    """Write ``text`` to ``path`` as :func:`replacing` does; return the path."""
    with replacing(path) as temporary:
        temporary.write_text(text)
    return Path(path)
