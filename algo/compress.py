"""Compress a network: choose the layers, prune, cluster, quantise (paper sections 4.3 to 4.5); or by another method."""

import dataclasses
import difflib
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from algo.codebook import HIGH, fit_scale
from algo.frontend import trace
from algo.grouping import group, real_elements, ungroup
from algo.masked_kmeans import INITIAL, masked_kmeans
from algo.methods import METHODS
from algo.network import ClusteredWeight, CodebookModule, CompressedNetwork, DenseWeight, LayerModule
from algo.permutation import free_channels, log_determinant, permute, search
from algo.pruning import magnitude_masks
from algo.vecq import VecqWeight, check_bits
from hdl.config import MvqError

__all__ = ["LAYER_SETTINGS", "CompressSettings", "check_codewords", "choose_layers", "compress", "report"]

#: settings that may differ from layer to layer.
LAYER_SETTINGS = ("vector_length", "n", "m", "codewords", "codeword_bits", "weight_bits")
#: of these, what all layers with a shared codebook must have in common.
_SHARED = ("vector_length", "codewords", "codeword_bits")
#: smallest scale of a dense channel.
_LEAST_SCALE = 1e-12


def _nearest(word, legal):
    """The one of ``legal`` that ``word`` looks most like."""
    return max(legal, key=lambda name: difflib.SequenceMatcher(None, str(word), name).ratio())


@dataclass(frozen=True, kw_only=True)
class CompressSettings:
    """Every setting of the compression; the defaults are the paper's for ResNets (section 6.2).

    Parameters
    ----------
    method : one of :data:`algo.methods.METHODS`.
    vector_length : d, output channels in a subvector; a multiple of ``m`` where masks are stored. None is the method's.
    n, m : N weights of every M survive; n == m is plain vector quantisation. Methods without pruning report the error
        of these weights too.
    codewords : k; a layer with fewer subvectors gets as many codewords as it has subvectors
        (:func:`check_codewords` says how many are too many). None is the method's.
    codeword_bits : q_c, bits of an element of a codeword, 2 to 8.
    weight_bits : bits of a weight of ``vecq``, 1 to 7.
    codebook : ``layer``, a codebook for each layer, or ``shared``, one for all.
    seed : draws the initial codewords.
    initial : ``random`` or ``k-means++``.
    normalise : scale every output channel's surviving weights to a root mean square of 1 for the clustering; its
        batch normalisation, or its scale where there is none, takes the factor back. Layers and channels of all sizes
        then count alike, which a shared codebook needs. Costs no bits; not in the paper. Masks are those of the
        weights as they were.
    restarts : clusterings with seeds from ``seed`` on, of which the best counts.
    iterations, tolerance : of the clustering, at most so many, and until fewer than this part of the assignments
    change; ``pqf`` has as many iterations with noise before.
    dense : names of layers that stay dense, besides those that the rule names.
    compress : names of layers that are compressed, whatever the rule says.
    layers : name of a compressed layer -> those of :data:`LAYER_SETTINGS` that differ there.

    Raises
    ------
    MvqError : names the setting, its value and the nearest legal one.
    """

    method: str = "mvq"
    vector_length: int | None = None
    n: int = 4
    m: int = 16
    codewords: int | None = None
    codeword_bits: int = 8
    weight_bits: int = 4
    codebook: Literal["layer", "shared"] = "layer"
    seed: int = 0
    initial: Literal["random", "k-means++"] = "random"
    normalise: bool = False
    restarts: int = 1
    iterations: int = 100
    tolerance: float = 1e-3
    dense: tuple[str, ...] = ()
    compress: tuple[str, ...] = ()
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self):
        if self.method not in METHODS:
            raise MvqError(
                f"method = {self.method!r}: must be one of {', '.join(METHODS)}; "
                f"the nearest legal value is {_nearest(self.method, METHODS)!r}"
            )
        method = METHODS[self.method]
        for name in ("dense", "compress"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        for name in ("vector_length", "codewords"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(method, name))
        for name in ("vector_length", "n", "m", "codewords", "iterations", "restarts"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise MvqError(f"{name} = {value!r}: must be an integer of at least 1; the nearest legal value is 1")
        if self.n > self.m:
            raise MvqError(f"n = {self.n}: cannot keep more than m = {self.m}; the nearest legal value is {self.m}")
        if method.sparse and self.vector_length % self.m:
            nearest = max(self.m, round(self.vector_length / self.m) * self.m)
            raise MvqError(
                f"vector_length = {self.vector_length}: must be a multiple of m = {self.m}; "
                f"the nearest legal value is {nearest}"
            )
        bits = self.codeword_bits
        if not isinstance(bits, int) or isinstance(bits, bool) or not 2 <= bits <= 8:
            nearest = min(max(bits, 2), 8) if isinstance(bits, int) else 8
            raise MvqError(
                f"codeword_bits = {bits!r}: must be an integer from 2 to 8; the nearest legal value is {nearest}"
            )
        check_bits(self.weight_bits)
        for name, legal in (("codebook", ("layer", "shared")), ("initial", INITIAL)):
            if getattr(self, name) not in legal:
                raise MvqError(f"{name} = {getattr(self, name)!r}: must be {' or '.join(map(repr, legal))}")
        if not isinstance(self.normalise, bool):
            raise MvqError(f"normalise = {self.normalise!r}: must be true or false")
        if self.normalise and METHODS[self.method].storage != "codebook":
            raise MvqError(f"normalise = True: the method {self.method!r} has no codebook; the nearest is False")
        if not 0 <= self.tolerance < 1:
            raise MvqError(f"tolerance = {self.tolerance}: must be at least 0 and below 1")
        both = sorted(set(self.dense) & set(self.compress))
        if both:
            raise MvqError(f"layer {both[0]!r} is named in dense and in compress; name it in one of them")
        self._check_layers()

    def _check_layers(self):
        """Every layer's own settings must be settings, legal, and fit a shared codebook."""
        for name, own in self.layers.items():
            if not isinstance(own, dict):
                raise MvqError(f"layers: {name!r} = {own!r}: must hold settings by name, such as {{'codewords': 256}}")
            for key in own:
                if key not in LAYER_SETTINGS:
                    raise MvqError(
                        f"layers: {name!r} sets {key!r}, but a layer can set only {', '.join(LAYER_SETTINGS)}; "
                        f"the nearest is {_nearest(key, LAYER_SETTINGS)!r}"
                    )
                if self.codebook == "shared" and key in _SHARED:
                    raise MvqError(f"layers: {name!r} sets {key!r}, but with codebook = 'shared' all have the same")
            try:
                self.of(name)
            except MvqError as error:
                raise MvqError(f"layers: {name!r}: {error}") from error

    def of(self, name):
        """The settings of layer ``name``: these, with what ``layers`` says about it."""
        own = self.layers.get(name)
        return dataclasses.replace(self, layers={}, **own) if own else self

    def to_dict(self):
        """Plain JSON form."""
        return {**dataclasses.asdict(self), "dense": list(self.dense), "compress": list(self.compress)}


def choose_layers(graph, settings):
    """Names of the layers to compress, in order.

    All but the first convolution (the paper's FLOP counts show that it stays dense), grouped and depthwise convolutions
    (section 7.5) and the classifier, which is the last linear layer; then what ``settings.dense`` and
    ``settings.compress`` say. ``int8`` stores these like the others, but reports on them as the other methods do.

    Raises
    ------
    MvqError : a name is no layer, a layer that stays dense has settings of its own, or nothing is left to compress.
    """
    names = [node.name for node in graph.layers]
    for name in (*settings.dense, *settings.compress, *settings.layers):
        if name not in names:
            raise MvqError(f"layer {name!r} is not in the network; its layers are {', '.join(names)}")
    convolutions = [node for node in graph.layers if node.op == "conv"]
    linears = [node for node in graph.layers if node.op == "linear"]
    dense = {node.name for node in convolutions[:1] + linears[-1:]}
    dense |= {node.name for node in convolutions if node.attrs["groups"] > 1}
    dense = (dense | set(settings.dense)) - set(settings.compress)
    chosen = [name for name in names if name not in dense]
    for name in settings.layers:
        if name not in chosen:
            raise MvqError(f"layer {name!r} stays dense, so it can have no settings of its own; name it in compress")
    if not chosen and METHODS[settings.method].storage != "int8":
        raise MvqError(f"no layer is left to compress; name one of {', '.join(names)} in compress")
    return chosen


def check_codewords(counts, settings):
    """Refuse a k that was asked for and that no codebook can have.

    The method's own k is for networks of all sizes, so small ones get as many codewords as they have subvectors.

    Parameters
    ----------
    counts : name -> subvectors, of the layers to compress.
    settings : :class:`CompressSettings` of a method with codebooks.

    Raises
    ------
    MvqError : names k, where it was set, and how many codewords there can be.
    """
    for name, own in settings.layers.items():
        if own.get("codewords", 0) > counts[name]:
            raise MvqError(
                f"codewords = {own['codewords']}: layer {name!r} has only {counts[name]} subvectors; "
                f"the nearest legal value is {counts[name]}"
            )
    shared = settings.codebook == "shared"
    most = sum(counts.values()) if shared else max(counts.values())
    if settings.codewords > most and settings.codewords != METHODS[settings.method].codewords:
        where = "all layers together have" if shared else "the largest layer has"
        raise MvqError(
            f"codewords = {settings.codewords}: {where} only {most} subvectors; the nearest legal value is {most}"
        )


def _dense_weight(weight):
    """int8 with one scale for each output channel; negligible for a channel of zeros, whose bn may have a huge gain."""
    return DenseWeight(weight, (weight.flatten(1).abs().amax(dim=1) / HIGH).clamp(min=_LEAST_SCALE))


def _scalar_weight(weight, settings):
    """A weight without a codebook, in as many bits as the method has."""
    uniform = METHODS[settings.method].storage == "uniform"
    return VecqWeight(weight, settings.weight_bits) if uniform else _dense_weight(weight)


def _kept(weight, settings):
    """Bool, of the shape of ``weight``: the weights that N:M pruning keeps."""
    return ungroup(magnitude_masks(group(weight, settings.m), settings.n, settings.m), weight.shape)


def _reorder(graph, floats, kept, chosen, settings, progress):
    """``floats`` and ``kept`` with all channels that are free in the order of :func:`algo.permutation.search`.

    Returns
    -------
    (floats, kept, changes) : ``changes`` name -> log-determinant of a layer's subvectors before and after.
    """
    masks = {name: dataclasses.replace(layer, weight=kept[name], bias=None, bn=None) for name, layer in floats.items()}
    changes, free = {}, free_channels(graph)
    for done, channels in enumerate(free, 1):
        names = [name for name in channels.producers if name in chosen]
        if progress:
            progress("permute", done, len(free))
        if not names:
            continue
        weights = [floats[name].weight for name in names]
        lengths = [settings.of(name).vector_length for name in names]
        order = search(weights, lengths, settings.seed)
        for name, weight, length in zip(names, weights, lengths, strict=True):
            changes[name] = [log_determinant([weight], [length], places) for places in (range(len(order)), order)]
        order = torch.from_numpy(order)
        floats, masks = (permute(table, channels, order) for table in (floats, masks))
    return floats, {name: layer.weight for name, layer in masks.items()}, changes


def _factors(weight, counted):
    """float32 of the shape (K, 1, ...) to multiply ``weight`` with: the weights that ``counted`` has of each output
    channel then have a root mean square of 1; 1 for a channel of zeros."""
    squares = (weight.double() ** 2 * counted).flatten(1).sum(dim=1)
    size = torch.sqrt(squares / counted.flatten(1).sum(dim=1).clamp(min=1))
    factors = torch.where(size > _LEAST_SCALE, 1 / size.clamp(min=_LEAST_SCALE), 1.0)
    return factors.float().view(-1, *[1] * (weight.dim() - 1))


def _subvectors(weight, factors, kept, settings):
    """Subvectors of a layer, all bool (NG, d) but the first: the vectors, which of their elements count in the
    clustering, which the rebuilt weights have, and the masks that are stored."""
    method, d = METHODS[settings.method], settings.vector_length
    real = real_elements(weight.shape, d)
    masks = magnitude_masks(group(weight, d), settings.n, settings.m) if method.sparse else torch.ones_like(real)
    used, scaled = masks & real, weight * factors
    return group(scaled * kept if method.prune else scaled, d), used if method.masked else real, used, masks


def _cluster(name, vectors, fitted, used, settings, options, progress):
    """Codebook module and clustering of subvectors, as :func:`_subvectors` gives them."""
    codewords = min(settings.codewords, len(vectors))
    step = None if progress is None else lambda done, total: progress(f"cluster {name}", done, total)
    result = masked_kmeans(
        vectors,
        fitted,
        codewords,
        seed=settings.seed,
        iterations=settings.iterations,
        tolerance=settings.tolerance,
        initial=settings.initial,
        restarts=settings.restarts,
        annealing=settings.iterations if METHODS[settings.method].anneal else 0,
        progress=step,
        **options,
    )
    uses = torch.zeros(codewords, vectors.shape[1]).index_add_(0, result.assignment, used.float())
    bits = settings.codeword_bits
    return CodebookModule(name, result.codebook, fit_scale(result.codebook, uses, bits), bits), result


def _clustered_weights(weights, factors, kept, settings, options, progress):
    """Name -> (:class:`ClusteredWeight`, what to record of its clustering), of the layers in ``weights``."""
    sparse = METHODS[settings.method].sparse
    parts = {
        name: _subvectors(weight, factors[name], kept[name], settings.of(name)) for name, weight in weights.items()
    }
    check_codewords({name: len(part[0]) for name, part in parts.items()}, settings)
    results = {}
    if settings.codebook == "layer":
        for name, part in parts.items():
            codebook, result = _cluster(name, *part[:3], settings.of(name), options, progress)
            results[name] = codebook, result.assignment, result
    else:
        together = (torch.cat([part[i] for part in parts.values()]) for i in range(3))
        codebook, result = _cluster("shared", *together, settings, options, progress)
        shares = result.assignment.split([len(part[0]) for part in parts.values()])
        results = {name: (codebook, share.clone(), result) for name, share in zip(parts, shares, strict=True)}
    layers = {}
    for name, (codebook, assignment, result) in results.items():
        own = settings.of(name)
        n, m = (own.n, own.m) if sparse else (1, 1)
        module = ClusteredWeight(codebook, assignment, parts[name][3], n, m, weights[name].shape)
        recorded = {
            "vectors": len(assignment),
            "codewords": len(codebook.values),
            "iterations": len(result.changed),
            "reseeded": result.reseeded,
        }
        layers[name] = module, recorded
    return layers


def _normalised_layer(node, parts, weight, factors):
    """The layer with a compressed ``weight``, whose channels are ``factors`` times as large as the float weight's."""
    factors = factors.flatten()
    if parts.bn is None:
        bias = torch.zeros(len(factors)) if parts.bias is None else parts.bias
        return LayerModule(node, weight, affine=(weight.scale.detach() / factors, bias))
    bn, bias = parts.bn, None if parts.bias is None else parts.bias * factors
    variance = (bn.variance + bn.epsilon) * factors**2 - bn.epsilon
    return LayerModule(node, weight, bias, dataclasses.replace(bn, mean=bn.mean * factors, variance=variance))


def _statistics(weight, kept, module, factors):
    """Squared errors of a layer against its float weights: of all, and of those that pruning keeps."""
    error = (weight.double() - module().double() / factors.double()) ** 2
    energy = (weight.double() ** 2).sum()
    return {"sse": float(error.sum()), "masked_sse": float(error[kept].sum()), "energy": float(energy)}


@torch.no_grad()
def compress(module, input_shape, settings=None, progress=None, *, device=None, chunk=None):
    """Compress a trained network.

    Parameters
    ----------
    module : ``nn.Module`` of the layers that :func:`algo.frontend.trace` supports; it is left as it was.
    input_shape : (C, H, W) of an image.
    settings : :class:`CompressSettings`; the paper's when None.
    progress : called with (what is done, steps done, steps) while clustering.
    device, chunk : where, and how many at once, subvectors are compared; see
        :class:`algo.masked_kmeans.MaskedVectors`. The result does not depend on them.

    Returns
    -------
    CompressedNetwork, in evaluation mode. Its ``statistics`` hold for each layer ``sse``, the squared error against the
    float weights (pruned weights included), and for each layer that is compressed ``masked_sse``, that of the weights
    alone which N:M pruning keeps (the paper's mask SSE, Tab. 3), whether the method prunes or not.

    Raises
    ------
    UnsupportedLayerError, MvqError : what cannot be compressed, by name.
    """
    settings = settings or CompressSettings()
    method = METHODS[settings.method]
    graph, floats = trace(module, input_shape)
    floats = {name: dataclasses.replace(layer, weight=layer.weight.cpu()) for name, layer in floats.items()}
    chosen = choose_layers(graph, settings)
    kept = {name: _kept(layer.weight, settings.of(name)) for name, layer in floats.items()}
    changes = {}
    if method.permute:
        floats, kept, changes = _reorder(graph, floats, kept, chosen, settings, progress)
    weights = {name: floats[name].weight for name in chosen}
    factors = {name: torch.ones(()) for name in floats}
    if settings.normalise:
        counted = kept if method.prune else {name: torch.ones_like(kept[name]) for name in weights}
        factors |= {name: _factors(weight, counted[name]) for name, weight in weights.items()}
    if method.storage == "codebook":
        options = {"device": device, "chunk": chunk}
        built = _clustered_weights(weights, factors, kept, settings, options, progress)
    else:
        built = {name: (_scalar_weight(weight, settings.of(name)), {}) for name, weight in weights.items()}

    layers, statistics = {}, {}
    for node in graph.layers:
        name, parts = node.name, floats[node.name]
        weight, recorded = built.get(name) or (_dense_weight(parts.weight), {})
        storage = "mvq" if isinstance(weight, ClusteredWeight) else "int8"
        statistics[name] = {
            "storage": storage,
            **recorded,
            **_statistics(parts.weight, kept[name], weight, factors[name]),
        }
        if name not in chosen:
            del statistics[name]["masked_sse"]
        if name in changes:
            statistics[name]["log_determinant"] = changes[name]
        if settings.normalise and name in weights:
            layers[name] = _normalised_layer(node, parts, weight, factors[name])
        else:
            layers[name] = LayerModule(node, weight, parts.bias, parts.bn)
    total = [statistics[name] for name in chosen]
    summary = {key: math.fsum(entry[key] for entry in total) for key in ("sse", "masked_sse")}
    return CompressedNetwork(graph, layers, settings.to_dict(), {"layers": statistics, "total": summary})


def report(checkpoint):
    """What a compression cost and saved, for tables.

    Parameters
    ----------
    checkpoint : :class:`golden.checkpoint.Checkpoint` that :func:`compress` led to.

    Returns
    -------
    dict : ``rows``, one for each layer with ``name, storage, shape, codewords, vectors, bytes, sse, masked_sse`` (None
    where the storage has none; ``bytes`` without the codebook where it is shared), and ``total`` with the sums,
    ``formula_ratio`` (paper eq. 7), ``file_ratio``, ``float_bytes`` and ``file_bytes``.
    """
    sizes, statistics = checkpoint.sizes(), checkpoint.statistics.get("layers", {})
    shared = len(checkpoint.codebooks) < sum(not bits["dense"] for bits in sizes["layers"].values())
    rows = []
    for node in checkpoint.graph.layers:
        bits, entry = sizes["layers"][node.name], statistics.get(node.name, {})
        parts = ("assignments", "masks", "dense", "affine") + (() if shared else ("codebook",))
        rows.append(
            {
                "name": node.name,
                "storage": "int8" if bits["dense"] else "mvq",
                "shape": list(node.weight_shape),
                "codewords": entry.get("codewords"),
                "vectors": entry.get("vectors"),
                "bytes": sum(bits[part] for part in parts) / 8,
                "sse": entry.get("sse"),
                "masked_sse": entry.get("masked_sse"),
            }
        )
    keys = ("formula_ratio", "file_ratio", "float_bytes", "file_bytes")
    return {"rows": rows, "total": {**checkpoint.statistics.get("total", {}), **{key: sizes[key] for key in keys}}}
