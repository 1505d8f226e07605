"""Fine-tune the codebooks with masked gradients (paper section 4.6, eq. 6); assignments and masks stay as they are."""

import hashlib
from dataclasses import dataclass

import torch

from algo.calibration import OBSERVERS, calibrate
from algo.quantised_activations import QuantisedActivations
from algo.training import TrainingSettings, train
from hdl.config import MvqError

__all__ = ["FinetuneSettings", "finetune"]

#: images that the steps of the activations start from.
_OBSERVED = 512


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TrainingSettings):
    """How to fine-tune; the paper leaves these open but for the choice of optimisers.

    Parameters
    ----------
    epochs, batch, optimiser, momentum, nesterov, distillation, temperature, keep, precision, seed : as
        :class:`algo.training.TrainingSettings` has them.
    rate : first learning rate; it falls to 0 along a cosine. Codebook scales use it relative to their size.
    weight_decay : of the dense weights; codewords, scales and normalisation have none.
    activations : ``float``, or ``int8``, which rounds them in training as the accelerator does; their steps start from
        an observer and are trained (LSQ), relative to their size like the scales.
    observer : of :func:`algo.calibration.calibrate`, for ``int8``.

    Raises
    ------
    MvqError : names the setting and its value.
    """

    activations: str = "float"
    observer: str = "mse"

    def __post_init__(self):
        super().__post_init__()
        if self.activations not in ("float", "int8"):
            raise MvqError(f"activations = {self.activations!r}: must be 'float' or 'int8'")
        if self.observer not in OBSERVERS:
            raise MvqError(f"observer = {self.observer!r}: must be one of {', '.join(OBSERVERS)}")


def _groups(network, steps, settings):
    """Parameter groups: scales and ``steps`` move in proportion to their size, decay only for dense weights."""
    scales = [*(codebook.scale for codebook in network.codebooks.values()), *steps]
    dense = [layer.weight.weight for layer in network.layers.values() if hasattr(layer.weight, "weight")]
    apart = {id(parameter) for parameter in scales + dense}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in apart]
    groups = [{"params": rest, "weight_decay": 0.0}, {"params": dense, "weight_decay": settings.weight_decay}]
    groups += [
        {"params": [scale], "weight_decay": 0.0, "lr": settings.rate * abs(float(scale.detach()))} for scale in scales
    ]
    return [part for part in groups if part["params"]]


def _quantised(network, images, settings):
    """``network`` with int8 activations, whose steps fit some of ``images``."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(settings.seed))
    seen = torch.as_tensor(images[order[:_OBSERVED]])
    return QuantisedActivations(network, calibrate(network, seen, observer=settings.observer))


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
    rounded to 8 bits in every forward pass (LSQ), and for good at the end. With ``settings.activations = "int8"`` the
    trained steps of the activations go to ``network.statistics["activations"]``, from where
    :func:`algo.quantised_activations.trained_calibration` brings them to the integer network.

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
    quantised = _quantised(network, images, settings) if settings.activations == "int8" else None
    log = train(
        quantised or network,
        images,
        labels,
        settings,
        loss=loss,
        groups=_groups(network, quantised.scales if quantised else [], settings),
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
    if quantised:
        network.statistics["activations"] = quantised.calibration().amax
    return [entry["loss"] for entry in log]
