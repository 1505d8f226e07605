"""Registry of the units that can be generated, simulated and synthesised alone."""

from .array.activation_file import ActivationFile
from .array.partial_sum_file import PartialSumFile
from .array.systolic_array import SystolicArray
from .codebook_lut.codebook_register_file import CodebookRegisterFile
from .codebook_lut.mask_decoder import MaskDecoder
from .codebook_lut.unpacker import Unpacker
from .codebook_lut.vector_rebuild import VectorRebuild
from .config import ConfigError
from .control.requantiser import Requantiser
from .control.sequencer import Sequencer
from .control.weight_loader import WeightLoader
from .core import BLOCKS, Core
from .pe.arithmetic import Multiplier
from .pe.mask_encoder import MaskEncoder
from .pe.processing_element import ProcessingElement
from .pe.row import row_for
from .pe.tile import Tile

__all__ = ["UNITS", "build_unit"]

#: unit name -> (builder, what the configuration must have).
UNITS = {
    "core": (Core, None),
    "systolic_array": (SystolicArray, None),
    "dense_tile": (Tile, "dense"),
    "sparse_tile": (Tile, "sparse"),
    "dense_row": (row_for, "dense"),
    "sparse_row": (row_for, "sparse"),
    "processing_element": (ProcessingElement, None),
    "multiplier": (lambda config: Multiplier(config.arithmetic), None),
    "mask_encoder": (lambda config: MaskEncoder(config.n, config.m), "masks"),
    "mask_decoder": (lambda config: MaskDecoder(config.n, config.m, config.mask_path), "masks"),
    "codebook_register_file": (CodebookRegisterFile, "codebook"),
    "vector_rebuild": (VectorRebuild, "codebook"),
    "unpacker": (lambda config: Unpacker(config.crf_read_ports * config.entry_width, config.stream_width), "codebook"),
    "weight_loader": (WeightLoader, None),
    "sequencer": (Sequencer, None),
    "activation_file": (ActivationFile, None),
    "partial_sum_file": (PartialSumFile, None),
    "requantiser": (lambda config: Requantiser(config.psum_width, config.arithmetic), None),
}


def build_unit(config, unit=None):
    """Component of ``unit`` (the core when None) and its report blocks."""
    name = unit or "core"
    if name not in UNITS:
        raise ConfigError("unit", name, f"must be one of {', '.join(UNITS)}")
    build, needs = UNITS[name]
    has = {"dense": config.tile == "dense", "sparse": config.tile == "sparse"}
    has |= {"masks": config.has_masks, "codebook": config.has_codebook}
    if needs and not has[needs]:
        raise ConfigError("unit", name, f"is not part of {config.name}, which has no {needs} part")
    return build(config), BLOCKS if name == "core" else {}
