"""Registry of the units that can be generated, simulated and synthesised alone."""

from .accelerator import BLOCKS as ACCELERATOR_BLOCKS
from .accelerator import Accelerator
from .accelerator_config import AcceleratorConfig
from .array.activation_file import ActivationFile
from .array.partial_sum_file import PartialSumFile
from .array.systolic_array import SystolicArray
from .bus.read_master import ReadMaster
from .bus.write_master import WriteMaster
from .codebook_lut.codebook_register_file import CodebookRegisterFile
from .codebook_lut.mask_decoder import MaskDecoder
from .codebook_lut.unpacker import Unpacker
from .codebook_lut.vector_rebuild import VectorRebuild
from .config import ConfigError
from .control.dispatcher import Dispatcher
from .control.ofmap_storer import OfmapStorer
from .control.registers import Registers
from .control.requantiser import Requantiser
from .control.sequencer import Sequencer
from .control.subset_splitter import SubsetSplitter
from .control.transfer_engines import LoadEngine, StoreEngine
from .control.weight_loader import WeightLoader
from .control.window_loader import WindowLoader
from .core import BLOCKS as CORE_BLOCKS
from .core import Core
from .memory.l1 import L1Memory
from .memory.psum_buffer import PsumBuffer
from .pe.arithmetic import Multiplier
from .pe.mask_encoder import MaskEncoder
from .pe.processing_element import ProcessingElement
from .pe.row import row_for
from .pe.tile import Tile

__all__ = ["ACCELERATOR_UNITS", "UNITS", "build_unit", "configuration_of"]

#: unit of the core -> (builder, what the configuration must have).
UNITS = {
    "core": (Core, None),
    "systolic_array": (SystolicArray, None),
    "dense_tile": (Tile, "dense"),
    "sparse_tile": (Tile, "sparse"),
    "dense_row": (row_for, "dense"),
    "sparse_row": (row_for, "sparse"),
    "processing_element": (ProcessingElement, None),
    "multiplier": (lambda config: Multiplier(config.style), None),
    "mask_encoder": (lambda config: MaskEncoder(config.n, config.m), "masks"),
    "mask_decoder": (lambda config: MaskDecoder(config.n, config.m, config.mask_path), "masks"),
    "codebook_register_file": (CodebookRegisterFile, "codebook"),
    "vector_rebuild": (VectorRebuild, "codebook"),
    "unpacker": (lambda config: Unpacker(config.crf_read_ports * config.entry_width, config.stream_width), "codebook"),
    "weight_loader": (WeightLoader, None),
    "sequencer": (Sequencer, None),
    "activation_file": (ActivationFile, None),
    "partial_sum_file": (PartialSumFile, None),
    "requantiser": (lambda config: Requantiser(config.psum_width, config.style), None),
}


#: unit outside the core -> builder from an accelerator's configuration.
ACCELERATOR_UNITS = {
    "accelerator": Accelerator,
    "registers": Registers,
    "dispatcher": Dispatcher,
    "subset_splitter": SubsetSplitter,
    "window_loader": WindowLoader,
    "ofmap_storer": OfmapStorer,
    "load_engine": LoadEngine,
    "store_engine": StoreEngine,
    "l1_memory": L1Memory,
    "psum_buffer": PsumBuffer,
    "read_master": lambda config: ReadMaster(config, config.read_buffers),
    "write_master": WriteMaster,
}
_BLOCKS = {"core": CORE_BLOCKS, "accelerator": ACCELERATOR_BLOCKS}


def configuration_of(config, unit=None):
    """The part of ``config`` that ``unit`` (the core when None) is built from: an array's for units of the core, an
    accelerator's for the others. An array's configuration stands for its accelerator with the default memories."""
    array = getattr(config, "array", config)
    if unit not in ACCELERATOR_UNITS:
        return array
    return config if config is not array else AcceleratorConfig(array=array)


def build_unit(config, unit=None):
    """Component of ``unit`` (the core when None) and its report blocks.

    Raises
    ------
    ConfigError : there is no such unit, or ``config`` does not have it.
    """
    name = unit or "core"
    config = configuration_of(config, name)
    if name in ACCELERATOR_UNITS:
        return ACCELERATOR_UNITS[name](config), _BLOCKS.get(name, {})
    if name not in UNITS:
        raise ConfigError("unit", name, f"must be one of {', '.join([*UNITS, *ACCELERATOR_UNITS])}")
    build, needs = UNITS[name]
    has = {"dense": config.tile == "dense", "sparse": config.tile == "sparse"}
    has |= {"masks": config.has_masks, "codebook": config.has_codebook}
    if needs and not has[needs]:
        raise ConfigError("unit", name, f"is not part of {config.name}, which has no {needs} part")
    return build(config), _BLOCKS.get(name, {})
