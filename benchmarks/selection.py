"""The presets that a benchmark's command line names."""

from hdl.config import VARIANTS, preset

__all__ = ["add_selection", "add_variants_and_sizes", "selected_presets"]


def add_variants_and_sizes(parser):
    """Give a parser the options ``--sizes`` and ``--variants``."""
    parser.add_argument("--sizes", default="16,32,64", help="rows (= columns) with commas")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="names with commas")


def add_selection(parser):
    """Give a parser the options ``--sizes``, ``--variants`` and ``--all-at``."""
    add_variants_and_sizes(parser)
    parser.add_argument("--all-at", default="", help="of these sizes all variants, whatever --variants says")


def selected_presets(arguments):
    """The presets that the options of :func:`add_selection` name, size by size.

    Raises
    ------
    ConfigError : a variant that there is not.
    """
    named, everything = arguments.variants.split(","), arguments.all_at.split(",")
    return [
        preset(variant, int(size))
        for size in arguments.sizes.split(",")
        for variant in (VARIANTS if size in everything else named)
    ]
