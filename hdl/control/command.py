"""The command: one weight subset, from its load to its last ofmap vector."""

from amaranth.lib import data

__all__ = ["command_layout"]


def command_layout(config):
    """Layout of a command; its fields and widths are ``config.command_fields``, their meaning is in docs/core.md."""
    return data.StructLayout(dict(config.command_fields))
