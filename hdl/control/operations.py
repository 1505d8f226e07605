"""Layouts of descriptors and subset headers, and of what the dispatcher hands to the engines for memory transfers and
weights."""

from amaranth.lib import data

__all__ = ["assign", "compute_layout", "header_layout", "subset_header_layout", "transfer_layout", "weight_op_layout"]


def _cut(fields, names):
    widths = dict(fields)
    return data.StructLayout({name: widths[name] for name in names})


def assign(target, source, **named):
    """Assignments of every field of ``target`` from ``named``, or from the field of ``source`` with the same name."""
    return [
        getattr(target, name).eq(named[name] if name in named else getattr(source, name)) for name, _ in target.shape()
    ]


def header_layout(config):
    """Start of every descriptor."""
    return data.StructLayout(dict(config.header_fields))


def transfer_layout(config):
    """A ``load`` or ``store``."""
    return data.StructLayout(dict(config.transfer_fields))


def compute_layout(config):
    """A ``conv`` or ``vector``."""
    return data.StructLayout(dict(config.compute_fields))


def weight_op_layout(config):
    """What the weight path needs of a convolution."""
    names = ("layer", "weights_address", "weight_words", "pixels", "ofmap_columns", "relu", "high")
    return _cut(config.compute_fields, names)


def subset_header_layout(config):
    """A subset header."""
    return data.StructLayout(dict(config.subset_fields))
