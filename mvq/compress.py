"""``mvq compress``: a network to a checkpoint, with training where there are labels, and before any work what would
become of each layer."""

import copy
import dataclasses
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from algo.augmentation import crop_and_flip
from algo.calibration import calibrate
from algo.compress import check_codewords, choose_layers, compress
from algo.finetune import FinetuneSettings, finetune
from algo.frontend import survey
from algo.grouping import group_shape
from algo.methods import METHODS
from algo.network import CompressedNetwork
from algo.quantised_activations import trained_calibration
from algo.reconstruction import reconstruct
from algo.sparse_training import SparseSettings, train_sparse
from algo.training import TrainingSettings
from golden.checkpoint import FLOAT_BITS, Checkpoint, index_width
from golden.masks import mask_code_width
from hdl.config import MvqError

__all__ = ["CALIBRATION", "STAGES", "Plan", "PlannedLayer", "Training", "check_plan", "make_plan", "run_compress"]

#: what :func:`run_compress` reports, for progress bars, in this order.
STAGES = {
    "prune": "training towards N:M",
    "compress": "compressing layers",
    "reconstruct": "fitting layers to the float network",
    "fine-tune": "fine-tuning",
    "calibrate": "calibrating on images",
}

#: file of the calibration in the checkpoint's folder, where ``mvq run`` looks for it.
CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class PlannedLayer:
    """What would become of a layer.

    Parameters
    ----------
    name : its path in the network.
    fate : ``compressed``, ``dense`` or ``unsupported``. ``reason`` : why, but for those that are compressed.
    shape : of its weight. ``weights`` : how many.
    vectors : NG, subvectors of d output channels. ``codewords`` : k of its codebook.
    bits : b_a + b_m of eq. 7, or those of each weight of a layer without codebook. ``codebook_bits`` : b_c, 0 where it
        is shared.
    """

    name: str
    fate: str
    reason: str = ""
    shape: tuple[int, ...] = ()
    weights: int = 0
    vectors: int = 0
    codewords: int = 0
    bits: int = 0
    codebook_bits: int = 0


@dataclass(frozen=True)
class Plan:
    """Every layer, and the sums.

    Parameters
    ----------
    layers : :class:`PlannedLayer`, those that are not supported last.
    shared_bits : b_c of the codebook that all share; 0 where each has its own.
    """

    layers: list[PlannedLayer]
    shared_bits: int

    def of(self, fate):
        """The layers with this fate."""
        return [layer for layer in self.layers if layer.fate == fate]

    @property
    def weights(self):
        """Weights of all layers."""
        return sum(layer.weights for layer in self.layers)

    @property
    def bits(self):
        """Bits of all weights, indices, masks and codebooks."""
        return sum(layer.bits + layer.codebook_bits for layer in self.layers) + self.shared_bits

    @property
    def formula_ratio(self):
        """Eq. 7 over the compressed layers."""
        chosen = self.of("compressed")
        packed = sum(layer.bits + layer.codebook_bits for layer in chosen) + self.shared_bits
        return FLOAT_BITS * sum(layer.weights for layer in chosen) / packed

    @property
    def ratio(self):
        """Float32 weights of all layers against what is stored for them."""
        return FLOAT_BITS * self.weights / self.bits

    def to_dict(self):
        """JSON-ready form."""
        total = {name: getattr(self, name) for name in ("weights", "bits", "formula_ratio", "ratio")}
        return {"layers": [asdict(layer) for layer in self.layers], "total": total}


def _why_dense(node, settings):
    """The rule of :func:`algo.compress.choose_layers` that keeps ``node`` dense."""
    if node.name in settings.dense:
        return "named in --dense"
    if node.op == "linear":
        return "classifier"
    if node.attrs["groups"] > 1:
        return "depthwise" if node.attrs["groups"] == node.attrs["in_channels"] else "grouped"
    return "first convolution"


def make_plan(module, input_shape, settings):
    """What :func:`run_compress` would do, from shapes alone.

    Parameters
    ----------
    module : ``nn.Module``. ``input_shape`` : (C, H, W). ``settings`` : :class:`algo.compress.CompressSettings`.

    Returns
    -------
    Plan

    Raises
    ------
    MvqError : the network cannot be traced, is compressed already, nothing is left to compress, or k is more than it
    has subvectors.
    """
    if isinstance(module, CompressedNetwork):
        raise MvqError("the network is compressed already; give the one that it came from")
    found = survey(module, input_shape)
    if not found.layers and found.refused:
        raise found.refused[0]
    chosen, method = choose_layers(found, settings), METHODS[settings.method]
    counts = {
        node.name: math.prod(group_shape(node.weight_shape, settings.of(node.name).vector_length))
        for node in found.layers
    }
    if method.storage == "codebook" and chosen:
        check_codewords({name: counts[name] for name in chosen}, settings)
    together = min(settings.codewords, sum(counts[name] for name in chosen))
    shared, layers = method.storage == "codebook" and settings.codebook == "shared", []
    for node in found.layers:
        name, shape, own = node.name, tuple(node.weight_shape), settings.of(node.name)
        weights = math.prod(shape)
        if name not in chosen:
            reason = _why_dense(node, settings)
            layers.append(PlannedLayer(name, "dense", reason, shape, weights, bits=8 * weights))
            continue
        if method.storage != "codebook":
            width = own.weight_bits if method.storage == "uniform" else 8
            layers.append(PlannedLayer(name, "compressed", "", shape, weights, bits=width * weights))
            continue
        vectors = counts[name]
        codewords = together if shared else min(own.codewords, vectors)
        masks = own.vector_length // own.m * mask_code_width(own.n, own.m) if method.sparse else 0
        bits = vectors * (index_width(codewords) + masks)
        codebook = 0 if shared else codewords * own.vector_length * own.codeword_bits
        layers.append(PlannedLayer(name, "compressed", "", shape, weights, vectors, codewords, bits, codebook))
    layers += [
        PlannedLayer(error.where or "the network", "unsupported", f"{error.what}{error.because}")
        for error in found.refused
    ]
    return Plan(layers, together * settings.vector_length * settings.codeword_bits if shared else 0)


def check_plan(plan):
    """Raise MvqError, naming all of them, if parts of the network are not supported."""
    refused = plan.of("unsupported")
    if refused:
        named = "; ".join(f"{layer.name!r} ({layer.reason})" for layer in refused)
        count = f"{len(refused)} parts of the network are" if len(refused) > 1 else "a part of the network is"
        raise MvqError(f"{count} not supported: {named}")


def _by_layer(chosen, progress):
    """Progress over all layers, from :func:`algo.compress.compress`, whose stages end with the name of a layer."""

    def step(stage, done, total):
        name = stage.rpartition(" ")[2]
        if name in chosen:
            progress("compress", chosen.index(name) + done / total, len(chosen))
        else:  # one codebook for all of them
            progress("compress", done, total)

    return step


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """What :func:`run_compress` trains, and on what.

    Parameters
    ----------
    images, labels : float32 (N, C, H, W), or :class:`algo.datasets.Pictures`; int64 (N,), or None where only
        ``reconstruct`` looks at the images.
    sparse_epochs : of the float network towards N:M before the clustering, with ``pruning`` (``sr-ste`` or ``asp``).
    reconstruct : images that codewords are fitted to without labels, behind the clustering.
    settings : :class:`algo.finetune.FinetuneSettings` of the fine-tuning; the sparse training has its optimiser, too.
    epochs : of the fine-tuning; 0 for none.
    teacher : the float network's outputs are distilled into both trainings.
    augment : images are cropped and mirrored at random.
    validation : (images, labels) that are classified after every epoch.
    folder : where both trainings keep their last and best epoch, and go on from.
    """

    images: Any
    labels: Any = None
    sparse_epochs: int = 0
    pruning: str = "sr-ste"
    reconstruct: int = 0
    epochs: int = 0
    settings: FinetuneSettings = field(default_factory=FinetuneSettings)
    teacher: bool = False
    augment: bool = False
    validation: tuple | None = None
    folder: Path | None = None

    def check(self, settings):
        """Raise MvqError where the training does not go with the compression's ``settings``."""
        method = METHODS[settings.method]
        if self.sparse_epochs and not method.prune:
            raise MvqError(
                f"sparse_epochs = {self.sparse_epochs}: the method {settings.method!r} does not prune; give 0 epochs"
            )
        if self.reconstruct and method.permute:
            raise MvqError(
                f"reconstruct = {self.reconstruct}: the method {settings.method!r} changes the order of channels, so "
                f"its layers cannot be fitted to the float ones; give 0 images"
            )
        if (self.sparse_epochs or self.epochs) and self.labels is None:
            raise MvqError("the images to train on have no labels; give others, or 0 epochs")

    def _options(self, teacher, stage, progress):
        return {
            "teacher": teacher if self.teacher else None,
            "augment": crop_and_flip if self.augment else None,
            "validation": self.validation,
            "folder": None if self.folder is None else self.folder / stage,
            "progress": progress,
        }

    def sparse(self, module, input_shape, settings, progress):
        """A copy of ``module``, trained towards the N:M of the compression's ``settings``."""
        trained = copy.deepcopy(module)
        own = {name: settings.of(name) for name in settings.layers}
        kept = SparseSettings(
            method=self.pruning,
            vector_length=math.lcm(settings.m, settings.vector_length),
            n=settings.n,
            m=settings.m,
            layers={name: (one.n, one.m) for name, one in own.items()},
            dense=settings.dense,
            compress=settings.compress,
        )
        shared = {item.name: getattr(self.settings, item.name) for item in dataclasses.fields(TrainingSettings)}
        training = TrainingSettings(**{**shared, "epochs": self.sparse_epochs})
        options = self._options(module, "prune", progress)
        train_sparse(trained, input_shape, self.images, self.labels, kept, training, **options)
        return trained

    def finetune(self, network, module, progress):
        """Fine-tune ``network``, which came from ``module``, in place."""
        settings = dataclasses.replace(self.settings, epochs=self.epochs)
        finetune(network, self.images, self.labels, settings, **self._options(module, "fine-tune", progress))


def run_compress(
    module,
    input_shape,
    settings,
    out,
    *,
    images=None,
    observer=None,
    percentile=None,
    training=None,
    progress=None,
):
    """Compress a network and save the checkpoint.

    Parameters
    ----------
    module, input_shape, settings : as for :func:`make_plan`.
    out : folder of the checkpoint.
    images : float32 (N, C, H, W) to calibrate with, or :class:`algo.datasets.Pictures`; the folder then holds
        calibration.json too. ``observer``, ``percentile`` : see :func:`algo.calibration.calibrate`. A fine-tuning with
        int8 activations brings calibration.json by itself.
    training : :class:`Training`, or None.
    progress : called with (a key of :data:`STAGES`, steps done, steps).

    Returns
    -------
    golden.checkpoint.Checkpoint

    Raises
    ------
    MvqError : a part of the network is not supported, the training cannot be, or the folder cannot be written.
    """
    progress = progress or (lambda *_: None)
    Checkpoint.check_place(out)
    plan = make_plan(module, input_shape, settings)
    check_plan(plan)
    if training:
        training.check(settings)
    chosen = [layer.name for layer in plan.of("compressed")]
    source = training.sparse(module, input_shape, settings, progress) if training and training.sparse_epochs else module
    network = compress(source, input_shape, settings, _by_layer(chosen, progress))
    if training and training.reconstruct:
        reconstruct(network, source, training.images[: training.reconstruct], progress=progress)
    if training and training.epochs:
        training.finetune(network, module, progress)
    calibration = None
    if training and training.epochs and training.settings.activations == "int8":
        calibration = trained_calibration(network)
    elif images is not None:
        calibration = calibrate(network, images, percentile, progress=progress, observer=observer)
    checkpoint = network.to_checkpoint()
    checkpoint.save(out)
    if calibration:
        calibration.save(Path(out) / CALIBRATION)
    return checkpoint
