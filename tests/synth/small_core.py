"""A small core with several tiles, mapped once for all tests, and a layer for it."""

import numpy as np

from golden.integer import Requantisation
from golden.lower import LoweredLayer
from golden.masks import encode_masks
from golden.schedule import LayerShape, choose_repeats
from golden.stream import WeightImage
from hdl.config import ArrayConfig
from synth.netlist import map_designs

CONFIG = ArrayConfig(
    rows=4, columns=8, vector_length=4, n=1, m=2, codewords=8, tile_rows=2, wrf_depth=2, prf_depth=2, arf_depth=2
)
CLOCK_PS = 3333


def mapped(liberty):
    """The core on ``liberty``."""
    return map_designs([CONFIG], liberty, CLOCK_PS)[0]


def random_layer(rng, inputs=6, outputs=12, pixels=3):
    """A 1x1 layer of random masked weights, and its input."""
    d = CONFIG.vector_length
    codebook = rng.integers(-128, 128, (CONFIG.codewords, d)).astype(np.int8)
    index = rng.integers(0, CONFIG.codewords, (-(-outputs // d), inputs, 1, 1))
    chosen = rng.random((*index.shape, CONFIG.mask_groups, CONFIG.m)).argsort(axis=-1) < CONFIG.n
    weight = np.moveaxis(codebook[index] * chosen.reshape(*index.shape, d), -1, 1).reshape(-1, inputs, 1, 1)[:outputs]
    scales = Requantisation.from_real(rng.normal(0, 1e-3, outputs), rng.normal(0, 1, outputs), "relu", 0.05)
    shape = LayerShape(
        name="conv", out_channels=outputs, in_channels=inputs, kernel=(1, 1), stride=(1, 1), pixels=(pixels, pixels)
    )
    image = WeightImage(CONFIG, weight, 1, (codebook, index, encode_masks(chosen, CONFIG.n)), scales)
    layer = LoweredLayer(shape, (0, 0, 0, 0), image, CONFIG, choose_repeats(shape, CONFIG, compressed=True), (0, 0))
    x = rng.integers(-128, 128, (1, inputs, pixels, pixels)).astype(np.int8)
    return layer, x * (rng.random(x.shape) > 0.3).astype(np.int8)
