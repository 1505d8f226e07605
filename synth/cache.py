"""Results of long steps, kept in the user's cache under a hash of all that they depend on.

An entry holds its own checksum: one that is damaged, cut off or of another form counts as missing, and is made again.
"""

import contextlib
import hashlib
import json

from golden.files import cache_folder, write_text
from hdl.config import MvqError

__all__ = ["content_key", "load", "store"]


def content_key(*parts):
    """Hash of JSON-ready ``parts``."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _path(kind, key):
    return cache_folder(kind) / key[:2] / f"{key}.json"


def _checksum(key, value):
    return hashlib.sha256(f"{key}{json.dumps(value, sort_keys=True)}".encode()).hexdigest()


def load(kind, key):
    """The JSON value that was stored as ``key`` among ``kind``, or None."""
    try:
        entry = json.loads(_path(kind, key).read_text())
        value = entry["value"]
        return value if entry["checksum"] == _checksum(key, value) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store(kind, key, value):
    """Keep ``value`` for :func:`load`. A cache that cannot be written is no error: the next run takes longer."""
    entry = {"checksum": _checksum(key, value), "value": value}
    with contextlib.suppress(MvqError):
        write_text(_path(kind, key), json.dumps(entry))
