"""Register files as latches: equal to flip-flops, value for value and cycle for cycle."""

import dataclasses

import numpy as np
import pytest

from cocotb_tests.core_simulation import CoreSimulation
from hdl.config import ConfigError, preset
from hdl.verilog import generate
from tests.hdl.test_core import LAYERS, random_input, random_layer, small_array
from tests.hdl.test_verilog_core import check


@pytest.mark.parametrize("variant", ["ws-cms", "ews-cms"])
def test_core_with_latches(request, variant):
    """Golden's values in golden's cycles, though no word of a register file is a flip-flop."""
    rng = np.random.default_rng(5)
    config = small_array(variant, style="structural")
    design = generate(config, storage="latch")
    assert design.text.count("mvq_latch_word #(") > 5
    # Latches power up as anything; unknown values would show in what is not valid, such as int8 of raw partial sums.
    noise = "output reg [WIDTH-1:0] q\n);\n  initial q = {WIDTH{1'b1}};"
    design = dataclasses.replace(design, text=design.text.replace("output reg [WIDTH-1:0] q\n);", noise))
    assert noise in design.text
    layers = [random_layer(config, rng, **LAYERS[kind])[0] for kind in ("stride", "dense")]
    inputs = [random_input(layer, rng, 1) for layer in layers]
    folder = request.config.cache.mkdir("verilog") / f"latches-{config.hash}"
    simulation = CoreSimulation(config, folder, "icarus", design)
    check(simulation, layers + layers[1:2], inputs + inputs[1:2], stall=[0.0] * len(layers) + [0.4])


def test_latches_need_the_structural_style():
    with pytest.raises(ConfigError, match="storage = 'latch': needs style = 'structural'"):
        generate(preset("ews", 16), storage="latch")
    with pytest.raises(ConfigError, match="storage = 'dram': must be one of flip_flop, latch"):
        generate(preset("ews", 16, style="structural"), storage="dram")
