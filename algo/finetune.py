"""Fine-tune the codebooks with masked gradients (paper section 4.6, eq. 6); assignments and masks stay as they are."""

import hashlib
from dataclasses import dataclass

from algo.training import TrainingSettings, train

__all__ = ["FinetuneSettings", "finetune"]


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TrainingSettings):
    """How to fine-tune; the paper leaves these open but for the choice of optimisers.

    Parameters
    ----------
    epochs, batch, optimiser, momentum, nesterov, distillation, temperature, seed : as
        :class:`algo.training.TrainingSettings` has them.
    rate : first learning rate; it falls to 0 along a cosine. Codebook scales use it relative to their size.
    weight_decay : of the dense weights; codewords, scales and normalisation have none.

    Raises
    ------
    MvqError : names the setting and its value.
    """


def _groups(network, settings):
    """Parameter groups: scales move in proportion to their size, decay only for dense weights."""
    scales = [codebook.scale for codebook in network.codebooks.values()]
    dense = [layer.weight.weight for layer in network.layers.values() if hasattr(layer.weight, "weight")]
    apart = {id(parameter) for parameter in scales + dense}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in apart]
    groups = [{"params": rest, "weight_decay": 0.0}, {"params": dense, "weight_decay": settings.weight_decay}]
    groups += [
        {"params": [scale], "weight_decay": 0.0, "lr": settings.rate * abs(float(scale.detach()))} for scale in scales
    ]
    return [part for part in groups if part["params"]]


def _frozen(network):
    """Digest of the assignments and masks, which have to be the same for a training to go on."""
    digest = hashlib.sha256()
    for layer in network.layers.values():
        for name in ("assignment", "mask"):
            if hasattr(layer.weight, name):
                digest.update(getattr(layer.weight, name).cpu().contiguous().numpy())
    return digest.hexdigest()


def finetune(
    network,
    images,
    labels,
    settings=None,
    loss=None,
    progress=None,
    *,
    teacher=None,
    augment=None,
    validation=None,
    folder=None,
    report=None,
):
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
    teacher, augment, validation, folder, report : as :func:`algo.training.train` takes them; the teacher is usually the
        float network, the folder is where a fine-tuning that was stopped goes on from.

    Returns
    -------
    list of float : mean loss of each epoch. The network is in evaluation mode.

    Raises
    ------
    MvqError : the loss became NaN or infinite, or ``folder`` cannot be gone on from or written.
    """
    settings = settings or FinetuneSettings()
    log = train(
        network,
        images,
        labels,
        settings,
        loss=loss,
        groups=_groups(network, settings),
        teacher=teacher,
        augment=augment,
        validation=validation,
        folder=folder,
        identity={"assignments": _frozen(network)},
        stage="fine-tune",
        progress=progress,
        report=report,
    )
    network.requantise()
    return [entry["loss"] for entry in log]
