"""Small accelerators and networks for tests on the compiled gateware."""

import functools

import numpy as np

from golden import lower
from golden.program import compile_program
from golden.timing import MemoryTiming
from hdl.accelerator_config import AcceleratorConfig
from hdl.config import ArrayConfig
from mvq.driver import Driver
from sim.accelerator import CxxrtlAccelerator
from tests.golden.program_networks import random_checkpoint

_CODEBOOK = {"vector_length": 8, "m": 8, "n": 2, "codewords": 16}
_SMALL = {"l1_banks": 12, "l1_bank_words": 64, "psum_vectors": 64, "burst_beats": 8, "outstanding": 4}

#: name -> configuration: sparse and dense tiles, one and several CRF ports and tile columns, one WRF word, buses of 64
#: to 256 bits, L1 words of several vectors and of several beats.
CONFIGS = {
    "ews-cms": AcceleratorConfig(array=ArrayConfig(rows=8, columns=8, **_CODEBOOK, gating_counter=True), **_SMALL),
    "ews-cm": AcceleratorConfig(
        array=ArrayConfig(rows=16, columns=16, tile="dense", tile_rows=8, **_CODEBOOK), **_SMALL
    ),
    "ws": AcceleratorConfig(
        array=ArrayConfig(rows=4, columns=4, weights="int8", tile="dense", vector_length=4, wrf_depth=1), **_SMALL
    ),
    "ews": AcceleratorConfig(
        array=ArrayConfig(rows=8, columns=8, weights="int8", tile="dense", vector_length=8, stream_width=128),
        **{**_SMALL, "l1_bank_words": 32},
    ),
    "ews-cms-32": AcceleratorConfig(
        array=ArrayConfig(rows=32, columns=32, **_CODEBOOK, crf_read_ports=2, gating_counter=True), **_SMALL
    ),
    "ws-cms-256": AcceleratorConfig(
        array=ArrayConfig(
            rows=16, columns=16, **_CODEBOOK, wrf_depth=1, crf_read_ports=2, stream_width=256, gating_counter=True
        ),
        **{**_SMALL, "l1_bank_words": 32},
    ),
}


@functools.cache
def engine(name):
    """The compiled accelerator ``name``, one for all tests of a process."""
    return CxxrtlAccelerator(CONFIGS[name], MemoryTiming())


class Case:
    """A network with random weights on the accelerator ``name``.

    Attributes
    ----------
    program, driver, network : of it. ``x`` : one int8 image (C, H, W). ``values`` : node -> golden's value of it.
    """

    def __init__(self, name, graph, seed=0, keep=None, base=0):
        config, rng = CONFIGS[name], np.random.default_rng(seed)
        array = config.array
        form = {"d": array.vector_length, "n": array.n, "m": array.m} if array.has_codebook else {}
        checkpoint, calibration = random_checkpoint(graph, rng, **form, compressed=0.6 if array.has_codebook else 0.0)
        lowered = lower(checkpoint, calibration, array)
        self.network = lowered.network
        self.program = compile_program(lowered, config, keep=keep, base=base)
        self.x = rng.integers(-128, 128, graph.shapes()[graph.input.name]).astype(np.int8)
        self.values = {node: value[0] for node, value in self.network.run(self.x[None]).items()}
        self.engine = engine(name)
        self.driver = Driver(self.program, self.engine)
