"""The core as generated Verilog under cocotb: equal to golden, in golden's cycles, with and without stalls."""

import dataclasses
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from cocotb_tests.core_simulation import CoreSimulation, compare
from cocotb_tests.simulators import Simulation, SimulationError
from golden.checkpoint import Checkpoint, Codebook, DenseLayer, MvqLayer
from golden.graph import Graph, Node
from golden.lower import lower
from golden.masks import encode_masks
from golden.network import Calibration
from golden.schedule import Repeats
from hdl.config import VARIANTS, ArrayConfig, preset
from hdl.verilog import generate
from tests.hdl.test_core import LAYERS, random_input, random_layer, small_array


def check(simulation, layers, inputs, **options):
    """Run layers as jobs; every value equals golden's and, without stalls, the cycles equal the model's."""
    runs = [list(layer.runs(x)) for layer, x in zip(layers, inputs, strict=True)]
    results = simulation.run([(layer.shape.name, run) for layer, run in zip(layers, runs, strict=True)], **options)
    for layer, run, result in zip(layers, runs, results, strict=True):
        compare(layer, run, result.outputs)
    cycles = [result.cycles for result in results]
    model = [layer.cycles(len(x)) for layer, x in zip(layers, inputs, strict=True)]
    stalls = options.get("stall", 0)
    stalls = stalls if isinstance(stalls, list) else [stalls] * len(layers)
    assert all(a >= b if stall else a == b for a, b, stall in zip(cycles, model, stalls, strict=True)), (cycles, model)
    return results


@pytest.mark.parametrize("variant", VARIANTS)
def test_small_arrays(core, variant):
    rng = np.random.default_rng(3)
    config = small_array(variant)
    layers = [random_layer(config, rng, **kind)[0] for kind in LAYERS.values()]
    inputs = [random_input(layer, rng, 1) for layer in layers]
    check(core(config), layers + layers[1:2], inputs + inputs[1:2], stall=[0.0] * len(layers) + [0.4])


@pytest.mark.parametrize("variant", ["ws-cms", "ews-c", "ews-cm", "ews-cms"])
def test_codebook_in_srams(core, variant):
    """The same values in the same cycles as with the codebook in registers, and after int8 weights as well."""
    rng = np.random.default_rng(6)
    config = small_array(variant, codebook_memory="sram")
    layers = [random_layer(config, rng, **LAYERS[kind])[0] for kind in ("stride", "dense")]
    inputs = [random_input(layer, rng, 1) for layer in layers]
    check(core(config), layers + layers, inputs + inputs, stall=[0.0, 0.0, 0.0, 0.4])


def test_one_array_runs_repeats_of_every_kind(core):
    """A, B, D (tap rows x tap columns) and dense passes, as far as their product fits the WRF."""
    rng = np.random.default_rng(4)
    config = small_array("ews-cms", prf_depth=4)
    compressed, _ = random_layer(config, rng, (12, 32), 3, 2)
    dense, _ = random_layer(config, rng, (8, 16), 2, 2, compressed=False)
    layers = [
        dataclasses.replace(
            compressed, repeats=Repeats(out_channel_repeat=a, in_channel_repeat=b, tap_rows=dy, tap_columns=dx)
        )
        for a, b, dy, dx in [(1, 1, 1, 1), (4, 1, 1, 1), (3, 3, 1, 1), (1, 1, 3, 3), (1, 3, 1, 3), (2, 2, 2, 2)]
    ]
    layers += [
        dataclasses.replace(dense, repeats=Repeats(out_channel_repeat=a, in_channel_repeat=b, tap_rows=dy, passes=p))
        for a, b, dy, p in [(1, 1, 1, 2), (2, 2, 2, 2), (2, 1, 2, 1)]
    ]
    assert max(layer.repeats.entries for layer in layers) == config.wrf_depth
    inputs = [random_input(layer, rng, 1) for layer in layers]
    check(core(config), layers + layers[5:7], inputs + inputs[5:7], stall=[0.0] * len(layers) + [0.3] * 2)


@st.composite
def arrays(draw):
    """Legal configurations of small arrays."""
    m = draw(st.sampled_from([2, 3, 4, 8]))
    d = m * draw(st.integers(1, 8 // m))
    weights, tile = draw(
        st.sampled_from(
            [("int8", "dense"), ("codebook", "dense"), ("masked_codebook", "dense"), ("masked_codebook", "sparse")]
        )
    )
    rows, groups, codewords = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 40))
    depth = draw(st.sampled_from([1, 2, 5, 8, 16]))
    return ArrayConfig(
        rows=rows,
        columns=d * groups,
        weights=weights,
        tile=tile,
        vector_length=d,
        n=draw(st.integers(1, m - 1)),
        m=m,
        codewords=codewords,
        index_width=draw(st.sampled_from([None, 6, 9])),
        wrf_depth=depth,
        prf_depth=draw(st.integers(1, min(depth, 4))),
        arf_depth=draw(st.integers(2, 9)),
        tile_rows=draw(st.sampled_from([value for value in range(1, rows + 1) if rows % value == 0])),
        psum_width=draw(st.sampled_from([24, 27, 32])),
        crf_read_ports=draw(st.sampled_from([value for value in range(1, groups + 1) if groups % value == 0])),
        mask_path=draw(st.sampled_from(["direct", "lut"])),
        style=draw(st.sampled_from(["behavioural", "structural"])),
    )


def check_random(data):
    config = data.draw(arrays())
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    layers = []
    for _ in range(2):
        grouped = data.draw(st.booleans())
        outputs = data.draw(st.integers(1, config.columns + 1))
        inputs = outputs if grouped else data.draw(st.integers(1, config.rows + 1))
        kind = {
            "channels": (inputs, outputs),
            "groups": outputs if grouped else 1,
            "compressed": not grouped and data.draw(st.booleans()),
            "kernel": data.draw(st.integers(1, 3)),
            "pixels": data.draw(st.integers(1, 2)),
            "stride": data.draw(st.integers(1, 2)),
        }
        layers.append(random_layer(config, rng, **kind)[0])
        note(f"{kind} {layers[-1].repeats}")
    inputs = [random_input(layer, rng, data.draw(st.integers(1, 2))) for layer in layers]
    with tempfile.TemporaryDirectory() as folder:
        simulation = CoreSimulation(config, folder, "icarus")
        seed = data.draw(st.integers(0, 1000))
        check(simulation, layers * 2, inputs * 2, stall=[0.0, 0.0, 0.3, 0.3], seed=seed)


random_examples = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@given(data=st.data())
@settings(random_examples, max_examples=2)
def test_random_configurations(data):
    check_random(data)


@pytest.mark.slow
@given(data=st.data())
@settings(random_examples, max_examples=15)
def test_many_random_configurations(data):
    check_random(data)


def masked_network():
    """A 3x3 convolution of masked codewords (4:16) and a dense 1x1 one behind it, in real numbers, and their input."""
    rng = np.random.default_rng(11)
    conv = {"stride": [1, 1], "groups": 1}
    graph = Graph(
        [
            Node("image", "input", (), {"shape": [20, 6, 6]}),
            Node(
                "masked",
                "conv",
                ("image",),
                {
                    **conv,
                    "in_channels": 20,
                    "out_channels": 40,
                    "kernel": [3, 3],
                    "padding": [1, 1, 1, 1],
                    "activation": "relu",
                },
            ),
            Node(
                "dense",
                "conv",
                ("masked",),
                {
                    **conv,
                    "in_channels": 40,
                    "out_channels": 24,
                    "kernel": [1, 1],
                    "padding": [0] * 4,
                    "activation": "none",
                },
            ),
        ],
        "dense",
    )
    book = Codebook("book", rng.integers(-128, 128, (12, 16)).astype(np.int8), np.float32(0.01))
    count = 3 * 20 * 9
    # Few distinct masks, so that the 8-long halves of all vectors fit the 1,024 codewords of EWS-C.
    masks = (rng.random((6, 1, 16)).argsort(-1) < 4)[rng.integers(0, 6, count)]

    def affine(channels):
        scale = rng.uniform(2e-4, 5e-4, channels).astype(np.float32)
        return {"channel_scale": scale, "channel_bias": rng.normal(0, 0.2, channels).astype(np.float32)}

    index, codes = rng.integers(0, 12, count).astype(np.uint32), encode_masks(masks, 4)
    layers = {
        "masked": MvqLayer(codebook=book, index=index, mask_codes=codes, n=4, m=16, **affine(40)),
        "dense": DenseLayer(weight=rng.integers(-127, 128, (24, 40, 1, 1)).astype(np.int8), **affine(24)),
    }
    x = rng.integers(-127, 128, (2, 20, 6, 6)).astype(np.int8)
    return Checkpoint(graph, layers, {}, {}), Calibration({"image": 1.0, "masked": 4.0, "dense": 8.0}), x


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_six_variants_give_the_same_integers(core, variant):
    """The paper's 16x16 arrays in Verilator: one network of masked weights, and one set of golden integers for all."""
    checkpoint, calibration, x = masked_network()
    lowered = lower(checkpoint, calibration, preset(variant, 16))
    values = lowered.network.run(x)
    layers = list(lowered.layers.values())
    simulation = core(preset(variant, 16), "verilator")
    inputs = [x, values["masked"]]
    masked, dense, *_ = check(simulation, layers * 2, inputs * 2, stall=[0.0, 0.0, 0.3, 0.3])
    for layer, result, name, part in zip(layers, (masked, dense), ("masked", "dense"), (1, 0), strict=True):
        outputs = [(subset, out[part]) for subset, out in zip(layer.schedule(2).subsets, result.outputs, strict=True)]
        outputs = [(subset, out) for subset, out in outputs if out is not None]
        assert np.array_equal(layer.assemble(2, outputs), values[name])  # the same for all variants


def test_a_code_that_is_zero_from_the_start(tmp_path):
    """Icarus looks at a look-up table first when its input changes, unless the Verilog makes it look at time 0."""
    rng = np.random.default_rng(999)
    config = small_array("ews-cm", vector_length=2, codewords=33, wrf_depth=2, mask_path="lut")
    layer, _ = random_layer(config, rng, (7, 1), 3, 2)
    check(CoreSimulation(config, tmp_path, "icarus"), [layer], [random_input(layer, rng, 1)])


def one_layer(seed=1):
    rng = np.random.default_rng(seed)
    config = small_array("ews-cms")
    layer, _ = random_layer(config, rng, (4, 8), 1, 3)
    return config, layer, list(layer.runs(random_input(layer, rng, 1)))


def test_missing_words_end_with_an_error_and_not_with_a_hang(tmp_path):
    config, _, (run, *_) = one_layer()
    short = dataclasses.replace(run, words=run.words[:-1])
    with pytest.raises(SimulationError, match=r"no stream moved for 100 cycles.*ofmap vectors taken: 0 of 9"):
        CoreSimulation(config, tmp_path, "icarus").run([("conv", [short])], watchdog=100)


def test_words_too_many_are_reported(tmp_path):
    config, _, (run, *_) = one_layer()
    long = dataclasses.replace(run, words=np.append(run.words, run.words[:2]))
    with pytest.raises(SimulationError, match="2 payloads of stream weights were never taken"):
        CoreSimulation(config, tmp_path, "icarus").run([("conv", [long])])


def test_progress_and_reuse(tmp_path):
    config, layer, runs = one_layer()
    simulation, told = CoreSimulation(config, tmp_path, "icarus"), []
    simulation.build()
    product = next(simulation.build_dir.rglob("sim.vvp"))
    before = product.stat().st_mtime_ns
    simulation.build()
    assert product.stat().st_mtime_ns == before
    (result,) = simulation.run([("conv", runs)], progress=lambda *where: told.append(where))
    assert told[-1] == ("conv", 9, 9)
    assert result.cycles == layer.cycles(1)
    assert not list(tmp_path.glob("run-*"))


def test_verilog_that_does_not_compile(tmp_path):
    config, _, _ = one_layer()
    design = generate(config, "multiplier")
    broken = dataclasses.replace(design, text=design.text.replace("endmodule", "endmodul", 1))
    with pytest.raises(SimulationError, match=r"icarus does not compile multiplier(?s:.*)syntax error"):
        Simulation(broken, tmp_path, "icarus").build()
