"""Fine-tune the codebooks with masked gradients (paper section 4.6, eq. 6); assignments and masks stay as they are."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from hdl.config import MvqError

__all__ = ["FinetuneSettings", "finetune"]

_OPTIMISERS = ("adamw", "adam", "sgd")


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """How to fine-tune; the paper leaves these open but for the choice of optimisers.

    Parameters
    ----------
    epochs : passes over the images.
    batch : images in a step.
    rate : first learning rate; it falls to 0 along a cosine. Codebook scales use it relative to their size.
    optimiser : ``adamw``, ``adam`` or ``sgd`` (momentum 0.9).
    weight_decay : of the dense weights; codewords, scales and normalisation have none.
    seed : draws the order of the images.

    Raises
    ------
    MvqError : names the setting and its value.
    """

    epochs: int = 5
    batch: int = 64
    rate: float = 1e-3
    optimiser: str = "adamw"
    weight_decay: float = 0.0
    seed: int = 0

    def __post_init__(self):
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise MvqError(f"{name} = {getattr(self, name)}: must be at least 1; the nearest legal value is 1")
        if not self.rate > 0:
            raise MvqError(f"rate = {self.rate}: must be above 0")
        if self.optimiser not in _OPTIMISERS:
            raise MvqError(f"optimiser = {self.optimiser!r}: must be one of {', '.join(_OPTIMISERS)}")


def _groups(network, settings):
    """Parameter groups: scales move in proportion to their size, decay only for dense weights."""
    codebooks = network.codebooks.values()
    scales = [codebook.scale for codebook in codebooks]
    dense = [layer.weight.weight for layer in network.layers.values() if hasattr(layer.weight, "weight")]
    apart = {id(parameter) for parameter in scales + dense}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in apart]
    groups = [{"params": rest, "weight_decay": 0.0}, {"params": dense, "weight_decay": settings.weight_decay}]
    groups += [
        {"params": [scale], "weight_decay": 0.0, "lr": settings.rate * abs(float(scale.detach()))} for scale in scales
    ]
    return [part for part in groups if part["params"]]


def finetune(network, images, labels, settings=None, loss=None, progress=None):
    """Train codewords, codebook scales, batch normalisation and dense weights of a compressed network, in place.

    The gradient of a codeword's element is the mean over the surviving weights that use it (eq. 6); codewords are
    rounded to 8 bits in every forward pass (LSQ), and for good at the end.

    Parameters
    ----------
    network : :class:`algo.network.CompressedNetwork`.
    images : float32 (N, C, H, W).
    labels : what ``loss`` compares with, (N, ...).
    settings : :class:`FinetuneSettings`.
    loss : ``loss(output, labels)``; cross entropy when None.
    progress : called with ("fine-tune", steps done, steps).

    Returns
    -------
    list of float : mean loss of each epoch. The network is in evaluation mode.

    Raises
    ------
    MvqError : the loss became NaN or infinite.
    """
    settings = settings or FinetuneSettings()
    loss = loss or F.cross_entropy
    if len(images) != len(labels) or not len(images):
        raise MvqError(
            f"fine-tuning needs as many labels as images, and at least one, not {len(labels)} and {len(images)}"
        )
    generator = torch.Generator().manual_seed(settings.seed)
    groups = _groups(network, settings)
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    if settings.optimiser == "sgd":
        optimiser = torch.optim.SGD(groups, lr=settings.rate, momentum=0.9)
    else:
        optimiser = kinds[settings.optimiser](groups, lr=settings.rate)
    steps = settings.epochs * -(-len(images) // settings.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    history, done = [], 0
    network.train()
    try:
        for _ in range(settings.epochs):
            total = 0.0
            for part in torch.randperm(len(images), generator=generator).split(settings.batch):
                value = loss(network(images[part]), labels[part])
                if not torch.isfinite(value):
                    raise MvqError(
                        f"the loss became {float(value.detach())} after {done} steps; use a rate below {settings.rate}"
                    )
                optimiser.zero_grad()
                value.backward()
                optimiser.step()
                schedule.step()
                total += float(value.detach()) * len(part)
                done += 1
                if progress:
                    progress("fine-tune", done, steps)
            history.append(total / len(images))
    finally:
        network.eval()
    network.requantise()
    return history
