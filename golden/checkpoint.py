"""The compressed checkpoint: a folder with ``manifest.json`` and ``tensors.safetensors``.

The manifest holds the format version, the graph, how each layer is stored, every setting and statistic, and a SHA-256
of the tensors and of itself. The tensors of a layer ``conv1`` are

| tensor | type | content |
|---|---|---|
| conv1.channel_scale, conv1.channel_bias | float32 (K,) | y = conv(x, w_int) * scale + bias, BN folded in |
| conv1.weight | int8, torch's shape | storage "int8" without ``bits`` in the manifest |
| conv1.weight | uint64 words | storage "int8" with ``bits`` k: c of k bits each, for the weight 2c - (2^k - 1) |
| conv1.index | uint64 words | storage "mvq": codebook index of each vector, ceil(log2 k) bits (at least 1) each |
| conv1.mask | uint64 words | storage "mvq", absent when n == m: ceil(log2 C(m, n)) bits for each m elements |
| codebook.ID.values | int8 (k, d) | codewords, of as many bits as the manifest's ``element_bits`` say (8 without it) |
| codebook.ID.scale | float32 () | what one step of ``values`` is worth |

Vectors are in the order (ceil(K / d), C / groups, kh, kw): one vector is d consecutive output channels at one input
channel and kernel tap (paper 4.3, output-channel-wise). Where d does not divide K, the channels above K exist in the
vectors and are dropped from the weights.
"""

import hashlib
import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from golden.graph import Graph
from golden.masks import decode_masks, mask_code_width
from golden.packing import pack_bits, unpack_bits
from hdl.config import MvqError

__all__ = ["Checkpoint", "CheckpointError", "Codebook", "DenseLayer", "Layer", "MvqLayer", "index_width"]

FORMAT = "mvq-checkpoint"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TENSORS = "tensors.safetensors"

#: b_f of eq. 7: bits of an uncompressed weight.
FLOAT_BITS = 32
#: bits of an integer weight, and of an element of a codeword, unless the checkpoint says that it has fewer.
INT_BITS = 8


class CheckpointError(MvqError):
    """A checkpoint that cannot be used: the text names the file or layer and what is wrong with it."""


def _array(value, dtype, what, shape=None):
    """``value`` as a contiguous array of exactly ``dtype`` (and ``shape``), all finite; CheckpointError otherwise."""
    value = np.asarray(value)
    if value.dtype != dtype:
        raise CheckpointError(f"{what} must be {np.dtype(dtype)}, not {value.dtype}")
    if shape is not None and value.shape != tuple(shape):
        raise CheckpointError(f"{what} must have the shape {tuple(shape)}, not {value.shape}")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
        raise CheckpointError(f"{what} holds {value[where]} at {where}; every value must be finite")
    return np.asarray(value, order="C")


def index_width(codewords):
    """Bits of a codebook index: ceil(log2 k), at least 1."""
    return max(1, (codewords - 1).bit_length())


def _check_bits(bits, least, what):
    """Raise CheckpointError unless ``bits`` is an integer from ``least`` to 8."""
    if not isinstance(bits, int) or not least <= bits <= INT_BITS:
        raise CheckpointError(f"{what} = {bits!r}: must be an integer from {least} to {INT_BITS}")


def _check_indices(value, shape, limit, what):
    """Raise CheckpointError unless ``value`` holds integers of ``shape``, each from 0 to below ``limit``."""
    if value.dtype.kind not in "iu" or value.shape != shape:
        raise CheckpointError(f"{what} must be integers {shape}, not {value.dtype} {value.shape}")
    for number in (value.min(), value.max()):
        if not 0 <= number < limit:
            raise CheckpointError(f"{what} holds {number}, but must be from 0 to {limit - 1}")


@dataclass(frozen=True, eq=False)
class Codebook:
    """Codewords that one or more layers share.

    Parameters
    ----------
    name : its ID in the checkpoint; the layer's name for a layer-wise codebook.
    values : int8 (k, d).
    scale : what one step of ``values`` is worth (paper eq. 5); layers carry it in their ``channel_scale`` already.
    element_bits : q_c of eq. 7, 2 to 8; ``values`` are in the range of so many bits.
    """

    name: str
    values: np.ndarray
    scale: np.float32
    element_bits: int = INT_BITS

    def __post_init__(self):
        object.__setattr__(self, "values", _array(self.values, np.int8, f"codebook {self.name!r}: values"))
        if self.values.ndim != 2 or 0 in self.values.shape:
            raise CheckpointError(f"codebook {self.name!r}: values must be (k, d), not {self.values.shape}")
        _check_bits(self.element_bits, 2, f"codebook {self.name!r}: element_bits")
        highest = (1 << self.element_bits - 1) - 1
        for value in (self.values.min(), self.values.max()):
            if not -highest - 1 <= value <= highest:
                raise CheckpointError(
                    f"codebook {self.name!r}: values hold {value}, which has more than {self.element_bits} bits"
                )
        scale = _array(np.float32(self.scale), np.float32, f"codebook {self.name!r}: scale", ())
        object.__setattr__(self, "scale", np.float32(scale))

    @property
    def codewords(self):
        """k."""
        return self.values.shape[0]

    @property
    def vector_length(self):
        """d."""
        return self.values.shape[1]

    @property
    def index_width(self):
        """Bits of an index: ceil(log2 k), at least 1."""
        return index_width(self.codewords)

    @property
    def bits(self):
        """b_c of eq. 7: k * d * q_c."""
        return self.values.size * self.element_bits


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer:
    """What every layer has: the affine step after its integer sum, y = psum * channel_scale + channel_bias.

    Parameters
    ----------
    channel_scale, channel_bias : float32 (K,); weight scale, batch normalisation and bias folded together.
    """

    channel_scale: np.ndarray
    channel_bias: np.ndarray

    def _check(self, name, shape):
        """Raise CheckpointError unless the layer fits weights of ``shape``."""
        for key in ("channel_scale", "channel_bias"):
            _array(getattr(self, key), np.float32, f"layer {name!r}: {key}", shape[:1])


@dataclass(frozen=True, eq=False, kw_only=True)
class DenseLayer(Layer):
    """Storage "int8".

    Parameters
    ----------
    weight : int8 (K, C / groups, kh, kw) or (K, F).
    bits : k. Below 8 the weights are the odd integers from 1 - 2^k to 2^k - 1, as of a uniform quantiser without a zero
        (VecQ), and stored in so many bits.
    """

    weight: np.ndarray
    bits: int = INT_BITS

    def _check(self, name, shape):
        super()._check(name, shape)
        weight = _array(self.weight, np.int8, f"layer {name!r}: weight", shape)
        _check_bits(self.bits, 1, f"layer {name!r}: bits")
        if self.bits < INT_BITS:
            wrong = weight[
                (weight % 2 == 0) | (weight.astype(np.int16) > (1 << self.bits) - 1) | (weight < 1 - (1 << self.bits))
            ]
            if wrong.size:
                raise CheckpointError(
                    f"layer {name!r}: weight holds {wrong[0]}, which is no odd integer of {self.bits} bits"
                )

    def _weights(self, shape):
        return self.weight

    def _manifest(self):
        return {"storage": "int8"} | ({"bits": self.bits} if self.bits < INT_BITS else {})

    def _tensors(self):
        if self.bits == INT_BITS:
            return {"weight": self.weight}
        return {"weight": pack_bits((self.weight.astype(np.int16) + (1 << self.bits) - 1) // 2, self.bits)}

    @classmethod
    def _load(cls, name, entry, shape, tensor, codebooks, affine):
        weight, bits = tensor(f"{name}.weight"), entry.get("bits", INT_BITS)
        _check_bits(bits, 1, "bits")
        if bits < INT_BITS:
            steps = unpack_bits(weight, bits, math.prod(shape)).astype(np.int16)
            weight = (2 * steps - (1 << bits) + 1).astype(np.int8).reshape(shape)
        return cls(weight=weight, bits=bits, **affine)


@dataclass(frozen=True, eq=False, kw_only=True)
class MvqLayer(Layer):
    """Storage "mvq": masked vector quantisation.

    Parameters
    ----------
    codebook : the codewords, k of d elements; one object may serve several layers.
    index : integers (NG,), the codeword of each vector; NG = ceil(K / d) * C / groups * kh * kw in that order.
    mask_codes : integers (NG, d / m) from :func:`golden.masks.encode_masks`; None exactly when n == m.
    n, m : N weights of every M survive; n == m is plain vector quantisation.
    """

    codebook: Codebook
    index: np.ndarray
    mask_codes: np.ndarray | None = None
    n: int
    m: int

    @property
    def code_width(self):
        """Bits of one mask code."""
        return mask_code_width(self.n, self.m)

    def masks(self):
        """bool (NG, d): True where an element of a vector survives."""
        if self.mask_codes is None:
            return np.ones((self.index.size, self.codebook.vector_length), dtype=bool)
        return decode_masks(self.mask_codes, self.n, self.m).reshape(self.index.size, -1)

    def vectors(self):
        """int8 (NG, d): the masked codewords."""
        return self.codebook.values[self.index] * self.masks()

    def _check(self, name, shape):
        super()._check(name, shape)
        d, count = self.codebook.vector_length, _vector_count(shape, self.codebook.vector_length)
        width = self.code_width
        if d % self.m:
            raise CheckpointError(f"layer {name!r}: vector_length = {d} must be a multiple of m = {self.m}")
        codewords, codes = self.codebook.codewords, math.comb(self.m, self.n)
        _check_indices(self.index, (count,), codewords, f"layer {name!r}: index")
        if (self.mask_codes is None) != (width == 0):
            wanted = "no masks (plain VQ)" if width == 0 else "masks"
            raise CheckpointError(f"layer {name!r}: {self.n}:{self.m} must have {wanted}")
        if width:
            _check_indices(self.mask_codes, (count, d // self.m), codes, f"layer {name!r}: mask_codes")

    def _weights(self, shape):
        d = self.codebook.vector_length
        vectors = self.vectors().reshape(-(-shape[0] // d), *shape[1:], d)
        return np.ascontiguousarray(np.moveaxis(vectors, -1, 1).reshape(-1, *shape[1:])[: shape[0]])

    def _manifest(self):
        return {
            "storage": "mvq",
            "vector_length": self.codebook.vector_length,
            "n": self.n,
            "m": self.m,
            "codebook": self.codebook.name,
            **({"element_bits": self.codebook.element_bits} if self.codebook.element_bits < INT_BITS else {}),
        }

    def _tensors(self):
        tensors = {"index": pack_bits(self.index, self.codebook.index_width)}
        if self.mask_codes is not None:
            tensors["mask"] = pack_bits(self.mask_codes, self.code_width)
        return tensors

    @classmethod
    def _load(cls, name, entry, shape, tensor, codebooks, affine):
        n, m, d = (int(entry[key]) for key in ("n", "m", "vector_length"))
        codebook = codebooks(entry["codebook"], entry.get("element_bits", INT_BITS))
        if codebook.vector_length != d:
            raise CheckpointError(f"vector_length = {d}, but its codebook has vectors of {codebook.vector_length}")
        count, width = _vector_count(shape, d), mask_code_width(n, m)
        index = unpack_bits(tensor(f"{name}.index"), codebook.index_width, count).astype(np.uint32)
        codes = None
        if width:
            codes = unpack_bits(tensor(f"{name}.mask"), width, count * (d // m)).reshape(count, d // m)
            codes = codes.astype(np.uint16 if width <= 16 else np.uint32 if width <= 32 else np.uint64)
        return cls(codebook=codebook, index=index, mask_codes=codes, n=n, m=m, **affine)


_STORAGE = {"int8": DenseLayer, "mvq": MvqLayer}


def _vector_count(shape, d):
    """NG: vectors of d output channels that hold weights of ``shape``."""
    return -(-shape[0] // d) * math.prod(shape[1:])


def _plain(value):
    """numpy scalars for json."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} is not JSON")


def _json(data, **options):
    return json.dumps(data, allow_nan=False, default=_plain, sort_keys=True, **options)


def _not_json(constant):
    raise ValueError(f"{constant} is not JSON")


def _sha256(data):
    return hashlib.sha256(data).hexdigest()


class Checkpoint:
    """A compressed network.

    Parameters
    ----------
    graph : the operations.
    layers : name -> :class:`MvqLayer` or :class:`DenseLayer`, exactly one for each conv and linear node.
    settings : every setting of the compression (JSON values).
    statistics : what was measured on the way, such as SSE by layer (JSON values, finite).

    Raises
    ------
    CheckpointError : a layer is missing or unknown, has a wrong shape or type, NaN, or an index, mask or codebook that
        does not fit.
    """

    def __init__(self, graph, layers, settings=None, statistics=None):
        self.graph = graph
        names = [node.name for node in graph.layers]
        for name in names:
            if name not in layers:
                raise CheckpointError(f"layer {name!r} is in the graph, but has no weights")
        for name in layers:
            if name not in names:
                raise CheckpointError(f"layer {name!r} has weights, but is no conv or linear node of the graph")
        self.layers = {name: layers[name] for name in names}
        self.codebooks = {}
        for name, layer in self.layers.items():
            layer._check(name, graph[name].weight_shape)
            if isinstance(layer, MvqLayer):
                codebook = self.codebooks.setdefault(layer.codebook.name, layer.codebook)
                if codebook is not layer.codebook:
                    raise CheckpointError(f"layer {name!r}: another codebook is called {codebook.name!r} too")
        # the form that a saved checkpoint loads as, so that both compare equal
        self.settings, self.statistics = (
            self._json_value(key, value)
            for key, value in (("settings", settings or {}), ("statistics", statistics or {}))
        )

    @staticmethod
    def _json_value(what, value):
        try:
            return json.loads(_json(value))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{what} cannot be written as JSON: {error}") from error

    def weights(self, name):
        """int8 weights of layer ``name``, rebuilt from codebook and masks: (K, C / groups, kh, kw) or (K, F)."""
        if name not in self.layers:
            raise CheckpointError(f"the checkpoint has no layer {name!r}; it has {', '.join(self.layers)}")
        return self.layers[name]._weights(self.graph[name].weight_shape)

    # ---- sizes -----------------------------------------------------------------------------------------------------

    def layer_bits(self, name):
        """Where the bits of a layer go, by the terms of the paper's eq. 7.

        Returns
        -------
        dict : ``weights`` (a count, padding left out), ``assignments`` b_a, ``masks`` b_m, ``codebook`` b_c (shared
        codebooks in full), ``dense`` (integer weights), ``affine`` (scale and bias), all in bits but the first.
        """
        layer = self.layers[name]
        bits = {
            "weights": math.prod(self.graph[name].weight_shape),
            "assignments": 0,
            "masks": 0,
            "codebook": 0,
            "dense": 0,
            "affine": FLOAT_BITS * (layer.channel_scale.size + layer.channel_bias.size),
        }
        if isinstance(layer, MvqLayer):
            bits["assignments"] = layer.index.size * layer.codebook.index_width
            bits["masks"] = 0 if layer.mask_codes is None else layer.mask_codes.size * layer.code_width
            bits["codebook"] = layer.codebook.bits
        else:
            bits["dense"] = layer.bits * layer.weight.size
        return bits

    def sizes(self):
        """True sizes and compression ratios.

        Returns
        -------
        dict : ``layers`` (name -> :meth:`layer_bits`); ``formula_ratio``, the paper's eq. 7 over the layers stored as
        "mvq", or with fewer than 8 bits a weight, each codebook counted once and padding not counted as weights (None
        without such layers);
        ``float_bytes``, the float32 weights and biases of every layer; ``file_bytes`` of manifest and tensors;
        ``file_ratio`` = float_bytes / file_bytes.
        """
        layers = {name: self.layer_bits(name) for name in self.layers}
        compressed = [
            bits
            for name, bits in layers.items()
            if isinstance(self.layers[name], MvqLayer) or self.layers[name].bits < INT_BITS
        ]
        packed = sum(bits["assignments"] + bits["masks"] + bits["dense"] for bits in compressed)
        packed += sum(codebook.bits for codebook in self.codebooks.values())
        float_bytes = sum(4 * (bits["weights"] + self.layers[name].channel_bias.size) for name, bits in layers.items())
        file_bytes = sum(len(content) for content in self._files().values())
        return {
            "layers": layers,
            "formula_ratio": sum(bits["weights"] for bits in compressed) * FLOAT_BITS / packed if compressed else None,
            "float_bytes": float_bytes,
            "file_bytes": file_bytes,
            "file_ratio": float_bytes / file_bytes,
        }

    # ---- files -----------------------------------------------------------------------------------------------------

    def _files(self):
        """File name -> content; the same checkpoint always gives the same bytes."""
        tensors = {}
        for name, layer in self.layers.items():
            tensors[f"{name}.channel_scale"], tensors[f"{name}.channel_bias"] = layer.channel_scale, layer.channel_bias
            tensors.update({f"{name}.{key}": value for key, value in layer._tensors().items()})
        for name, codebook in self.codebooks.items():
            tensors[f"codebook.{name}.values"] = codebook.values
            tensors[f"codebook.{name}.scale"] = np.asarray(codebook.scale)
        packed = safetensors.numpy.save({key: np.asarray(tensors[key], order="C") for key in sorted(tensors)})
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "settings": self.settings,
            "graph": self.graph.to_dict(),
            "layers": {name: layer._manifest() for name, layer in self.layers.items()},
            "statistics": self.statistics,
            "tensors_sha256": _sha256(packed),
        }
        manifest["manifest_sha256"] = _sha256(_json(manifest).encode())
        return {MANIFEST: (_json(manifest, indent=1) + "\n").encode(), TENSORS: packed}

    @staticmethod
    def check_place(path):
        """Raise CheckpointError unless :meth:`save` may write to ``path``, for a look before long work."""
        path = Path(path)
        if path.exists() and not (path / MANIFEST).is_file() and not (path.is_dir() and not any(path.iterdir())):
            raise CheckpointError(f"{path} exists and is no checkpoint; choose another place")

    def save(self, path):
        """Write the checkpoint to folder ``path``: first beside it, then renamed into place, so that no half of one is
        ever seen.

        An existing checkpoint is replaced; anything else at ``path`` but an empty folder is refused.

        Raises
        ------
        CheckpointError : ``path`` holds something else, or cannot be written.
        """
        path = Path(path)
        self.check_place(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
        former = path.with_name(f".{path.name}.{os.getpid()}.old")
        try:
            temporary.mkdir(parents=True)
            for name, content in self._files().items():
                (temporary / name).write_bytes(content)
            if path.exists():
                path.rename(former)
            temporary.rename(path)
        except OSError as error:
            if former.exists() and not path.exists():
                former.rename(path)
            raise CheckpointError(f"{path} cannot be written ({error.strerror})") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)

    @classmethod
    def load(cls, path):
        """Read the checkpoint in folder ``path``.

        Raises
        ------
        CheckpointError : a file is missing, truncated or altered, of another format or a newer version, or does not fit
            the graph.
        """
        path = Path(path)
        manifest = _read_manifest(path / MANIFEST)
        tensors = _read_tensors(path / TENSORS, manifest)
        try:
            return cls._build(manifest, tensors)
        except MvqError as error:
            raise CheckpointError(f"{path}: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path / MANIFEST}: is not well-formed ({error!r})") from error

    @classmethod
    def _build(cls, manifest, tensors):
        unused, codebooks = set(tensors), {}

        def tensor(name):
            if name not in tensors:
                raise CheckpointError(f"{TENSORS} lacks the tensor {name!r}")
            unused.discard(name)
            return tensors[name]

        def codebook(name, bits):
            if name not in codebooks:
                values, scale = tensor(f"codebook.{name}.values"), tensor(f"codebook.{name}.scale")
                codebooks[name] = Codebook(name, values, scale, bits)
            if codebooks[name].element_bits != bits:
                raise CheckpointError(f"codebook {name!r} has element_bits {codebooks[name].element_bits} and {bits}")
            return codebooks[name]

        graph, layers = Graph.from_dict(manifest["graph"]), {}
        for name, entry in manifest["layers"].items():
            if entry["storage"] not in _STORAGE:
                raise CheckpointError(f"layer {name!r}: unknown storage {entry['storage']!r}")
            shape = graph[name].weight_shape
            if shape is None:
                raise CheckpointError(f"layer {name!r} has weights, but is no conv or linear node of the graph")
            affine = {key: tensor(f"{name}.{key}") for key in ("channel_scale", "channel_bias")}
            try:
                layers[name] = _STORAGE[entry["storage"]]._load(name, entry, shape, tensor, codebook, affine)
            except MvqError as error:
                raise CheckpointError(f"layer {name!r}: {error}") from error
        checkpoint = cls(graph, layers, manifest["settings"], manifest["statistics"])
        if unused:
            raise CheckpointError(f"{TENSORS} holds {min(unused)!r}, which no layer uses")
        return checkpoint


def _read(path):
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def _read_manifest(path):
    """The manifest, once its format, version and digest are right."""
    content = _read(path)
    try:
        manifest = json.loads(content, parse_constant=_not_json)
    except ValueError as error:
        raise CheckpointError(f"{path}: is truncated or no JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not a manifest of the format {FORMAT!r}")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        hint = "; a newer mvq wrote it" if isinstance(version, int) and version > FORMAT_VERSION else ""
        raise CheckpointError(f"{path}: format_version = {version!r}, but only {FORMAT_VERSION} can be read{hint}")
    digest = manifest.pop("manifest_sha256", None)
    if digest != _sha256(_json(manifest).encode()):
        raise CheckpointError(f"{path}: was altered after it was written (its SHA-256 differs)")
    return manifest


def _read_tensors(path, manifest):
    """Tensors by name, once their digest is right."""
    content = _read(path)
    if _sha256(content) != manifest.get("tensors_sha256"):
        raise CheckpointError(f"{path}: is truncated or was altered (its SHA-256 differs from the manifest's)")
    try:
        return safetensors.numpy.load(content)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: is no safetensors file ({error})") from error
