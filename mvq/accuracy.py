"""Accuracy of a configuration, for `mvq explore`: from a table, or of a network that is compressed for it."""

import dataclasses
import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path

from hdl.config import ArrayConfig, MvqError
from mvq.reports import describe

__all__ = ["AccuracyTable", "CompressedAccuracy"]

#: how the weights of a configuration arrive -> method of :mod:`algo.methods`.
_METHODS = {"int8": "int8", "codebook": "vq", "masked_codebook": "mvq"}


@dataclass(frozen=True)
class AccuracyTable:
    """Accuracies that somebody measured.

    Parameters
    ----------
    path : where they were read. ``rows`` : tables, each with ``accuracy`` and the fields of the configurations that it
        holds for.
    """

    path: str
    rows: tuple

    @classmethod
    def read(cls, path):
        """The table in a file: a JSON list of tables, each with ``accuracy`` from 0 to 1 and any of the parameters of
        :class:`hdl.config.ArrayConfig` and ``variant``.

        Raises
        ------
        MvqError : the file cannot be read, or a row is not such a table.
        """
        try:
            rows = json.loads(Path(path).read_text())
        except OSError as error:
            raise MvqError(f"--accuracy = {path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise MvqError(f"--accuracy = {path}: is not JSON ({error})") from error
        names = {*(field.name for field in dataclasses.fields(ArrayConfig)), "variant", "accuracy"}
        if not isinstance(rows, list) or not rows:
            raise MvqError(f"--accuracy = {path}: must hold a list of tables")
        for number, row in enumerate(rows):
            if not isinstance(row, dict) or not isinstance(row.get("accuracy"), int | float):
                raise MvqError(f"--accuracy = {path}: row {number} has no number 'accuracy'")
            if not 0 <= row["accuracy"] <= 1:
                raise MvqError(f"--accuracy = {path}: row {number} has accuracy = {row['accuracy']}, not from 0 to 1")
            for name in row:
                if name not in names:
                    raise MvqError(f"--accuracy = {path}: row {number} has {name!r}, which no configuration has")
        return cls(str(path), tuple(rows))

    def to_dict(self):
        """JSON form, by which a study knows it."""
        return {"rows": list(self.rows)}

    def key(self, config):
        """What the accuracy of ``config`` depends on."""
        return config.to_dict()

    def of(self, config):
        """Accuracy of ``config``; raises MvqError where no row, or rows that differ, hold for it."""
        found = [
            row["accuracy"]
            for row in self.rows
            if all(name == "accuracy" or getattr(config, name) == value for name, value in row.items())
        ]
        if not found:
            raise MvqError(f"{self.path} has no accuracy of {describe(config.to_dict())}")
        if len(set(found)) > 1:
            raise MvqError(f"{self.path} has {len(found)} accuracies of {describe(config.to_dict())} that differ")
        return found[0]


@dataclass(frozen=True, kw_only=True)
class CompressedAccuracy:
    """Part of the images that a network gets right after it was compressed for a configuration, without training.

    Parameters
    ----------
    network, weights, input_shape : as for :func:`algo.sources.load_network`.
    data : images with labels, as :func:`algo.datasets.load_dataset` reads them, with ``mean``, ``std``, ``size`` and
        ``resize``; the test images are classified, ``count`` of them or all.
    reconstruct : training images that the codewords are fitted to (:func:`algo.reconstruction.reconstruct`).
    """

    network: str
    data: Path
    weights: Path | None = None
    input_shape: tuple | None = None
    mean: tuple | None = None
    std: tuple | None = None
    size: int | None = None
    resize: int | None = None
    count: int | None = None
    reconstruct: int = 0

    def __post_init__(self):
        for name in ("input_shape", "mean", "std"):  # lists cannot be hashed
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))

    def check(self):
        """Raise MvqError where the network or the images cannot be read, or do not go together."""
        _, shape = _float_network(self)
        dataset = _images(self, "test", self.count)
        dataset.check(shape)
        if dataset.labels is None:
            raise MvqError(f"--data = {self.data}: has no labels, without which there is no accuracy")
        if self.reconstruct:
            _images(self, "train", self.reconstruct).check(shape)

    def to_dict(self):
        """JSON form, by which a study knows it."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=str))

    def key(self, config):
        """What the accuracy of ``config`` depends on."""
        return {"method": _METHODS[config.weights], **_compression(config)}

    def of(self, config):
        """Accuracy of ``config``."""
        from algo.compress import CompressSettings, compress
        from algo.reconstruction import reconstruct
        from mvq.evaluate import evaluate

        module, shape = _float_network(self)
        settings = CompressSettings(method=_METHODS[config.weights], **_compression(config))
        network = compress(module, shape, settings)
        if self.reconstruct and config.has_codebook:
            reconstruct(network, module, _images(self, "train", self.reconstruct).images)
        classes = math.prod(network.graph.shapes()[network.graph.output])
        [score] = evaluate({"compressed": network.eval()}, _images(self, "test", self.count), classes)
        return score.top1


def _compression(config):
    """Settings of the compression that a configuration can run."""
    if not config.has_codebook:
        return {}
    masks = {"n": config.n, "m": config.m} if config.has_masks else {}
    return {"codewords": config.codewords, "vector_length": config.vector_length, **masks}


@functools.lru_cache(1)  # a worker compresses the same network again and again
def _float_network(source):
    from algo.sources import load_network

    return load_network(source.network, weights=source.weights, input_shape=source.input_shape)


@functools.lru_cache(2)
def _images(source, split, count):
    from algo.datasets import load_dataset

    _, shape = _float_network(source)
    options = {name: getattr(source, name) for name in ("mean", "std", "size", "resize")}
    return load_dataset(source.data, split=split, count=count, channels=1 if shape[0] == 1 else 3, **options)
