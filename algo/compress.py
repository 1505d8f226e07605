"""Compress a network: choose the layers, prune, cluster, quantise (paper sections 4.3 to 4.5)."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch

from algo.codebook import HIGH, fit_scale
from algo.frontend import trace
from algo.grouping import group, real_elements
from algo.masked_kmeans import masked_kmeans
from algo.network import ClusteredWeight, CodebookModule, CompressedNetwork, DenseWeight, LayerModule
from algo.pruning import magnitude_masks
from hdl.config import MvqError

__all__ = ["CompressSettings", "choose_layers", "compress", "report"]

#: smallest scale of a dense channel.
_LEAST_SCALE = 1e-12


@dataclass(frozen=True, kw_only=True)
class CompressSettings:
    """Every setting of the compression; the defaults are the paper's for ResNets (section 6.2).

    Parameters
    ----------
    vector_length : d, output channels in a subvector; a multiple of ``m``.
    n, m : N weights of every M survive; n == m is plain vector quantisation.
    codewords : k; a layer with fewer subvectors gets as many codewords as it has subvectors.
    codebook : ``layer``, a codebook for each layer, or ``shared``, one for all.
    seed : draws the initial codewords.
    iterations, tolerance : of the clustering, at most so many, and until fewer than this part of the assignments
    change.
    dense : names of layers that stay dense, besides those that the rule names.
    compress : names of layers that are compressed, whatever the rule says.

    Raises
    ------
    MvqError : names the setting, its value and the nearest legal one.
    """

    vector_length: int = 16
    n: int = 4
    m: int = 16
    codewords: int = 512
    codebook: Literal["layer", "shared"] = "layer"
    seed: int = 0
    iterations: int = 100
    tolerance: float = 1e-3
    dense: tuple[str, ...] = ()
    compress: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("dense", "compress"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        for name in ("vector_length", "n", "m", "codewords", "iterations"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise MvqError(f"{name} = {value!r}: must be an integer of at least 1; the nearest legal value is 1")
        if self.n > self.m:
            raise MvqError(f"n = {self.n}: cannot keep more than m = {self.m}; the nearest legal value is {self.m}")
        if self.vector_length % self.m:
            nearest = max(self.m, round(self.vector_length / self.m) * self.m)
            raise MvqError(
                f"vector_length = {self.vector_length}: must be a multiple of m = {self.m}; "
                f"the nearest legal value is {nearest}"
            )
        if self.codebook not in ("layer", "shared"):
            raise MvqError(f"codebook = {self.codebook!r}: must be 'layer' or 'shared'")
        if not 0 <= self.tolerance < 1:
            raise MvqError(f"tolerance = {self.tolerance}: must be at least 0 and below 1")
        both = sorted(set(self.dense) & set(self.compress))
        if both:
            raise MvqError(f"layer {both[0]!r} is named in dense and in compress; name it in one of them")

    def to_dict(self):
        """Plain JSON form."""
        return {**dataclasses.asdict(self), "dense": list(self.dense), "compress": list(self.compress)}


def choose_layers(graph, settings):
    """Names of the layers to compress, in order.

    All but the first convolution (the paper's FLOP counts show that it stays dense), grouped and depthwise convolutions
    (section 7.5) and the classifier, which is the last linear layer; then what ``settings.dense`` and
    ``settings.compress`` say.

    Raises
    ------
    MvqError : a name is no layer, or nothing is left to compress.
    """
    names = [node.name for node in graph.layers]
    for name in (*settings.dense, *settings.compress):
        if name not in names:
            raise MvqError(f"layer {name!r} is not in the network; its layers are {', '.join(names)}")
    convolutions = [node for node in graph.layers if node.op == "conv"]
    linears = [node for node in graph.layers if node.op == "linear"]
    dense = {node.name for node in convolutions[:1] + linears[-1:]}
    dense |= {node.name for node in convolutions if node.attrs["groups"] > 1}
    dense = (dense | set(settings.dense)) - set(settings.compress)
    chosen = [name for name in names if name not in dense]
    if not chosen:
        raise MvqError(f"no layer is left to compress; name one of {', '.join(names)} in compress")
    return chosen


def _dense_weight(weight):
    """int8 with one scale for each output channel; negligible for a channel of zeros, whose bn may have a huge gain."""
    return DenseWeight(weight, (weight.flatten(1).abs().amax(dim=1) / HIGH).clamp(min=_LEAST_SCALE))


def _cluster(name, vectors, fitted, settings, progress):
    """Codebook module, clustering, and how many surviving weights use each element of a codeword."""
    codewords = min(settings.codewords, len(vectors))
    step = None if progress is None else lambda done, total: progress(f"cluster {name}", done, total)
    result = masked_kmeans(
        vectors,
        fitted,
        codewords,
        seed=settings.seed,
        iterations=settings.iterations,
        tolerance=settings.tolerance,
        progress=step,
    )
    uses = torch.zeros(codewords, vectors.shape[1]).index_add_(0, result.assignment, fitted.float())
    return CodebookModule(name, result.codebook, fit_scale(result.codebook, uses)), result


def _statistics(weight, module, extra):
    """Squared errors of a layer against its float weights, all of them and those that survive."""
    error = (weight.double() - module.levels().detach().double() * module.scale.detach().double()) ** 2
    kept = group(error, module.mask.shape[1])[module.mask.bool()]
    return {
        "storage": "mvq",
        "vectors": len(module.assignment),
        "codewords": len(module.codebook.values),
        "sse": float(error.sum()),
        "masked_sse": float(kept.sum()),
        "energy": float((weight.double() ** 2).sum()),
        **extra,
    }


@torch.no_grad()
def compress(module, input_shape, settings=None, progress=None):
    """Compress a trained network.

    Parameters
    ----------
    module : ``nn.Module`` of the layers that :func:`algo.frontend.trace` supports; it is left as it was.
    input_shape : (C, H, W) of an image.
    settings : :class:`CompressSettings`; the paper's when None.
    progress : called with (what is done, steps done, steps) while clustering.

    Returns
    -------
    CompressedNetwork, in evaluation mode. Its ``statistics`` hold for each layer ``sse``, the squared error against the
    float weights (pruned weights included), and ``masked_sse``, that of the surviving weights alone (the paper's mask
    SSE, Tab. 3).

    Raises
    ------
    UnsupportedLayerError, MvqError : what cannot be compressed, by name.
    """
    settings = settings or CompressSettings()
    graph, floats = trace(module, input_shape)
    chosen = choose_layers(graph, settings)
    d = settings.vector_length
    vectors = {name: group(floats[name].weight.cpu(), d) for name in chosen}
    masks = {name: magnitude_masks(vectors[name], settings.n, settings.m) for name in chosen}
    fitted = {name: masks[name] & real_elements(floats[name].weight.shape, d) for name in chosen}
    clusters = {}
    if settings.codebook == "layer":
        for name in chosen:
            codebook, result = _cluster(name, vectors[name], fitted[name], settings, progress)
            clusters[name] = codebook, result.assignment, len(result.changed), result.reseeded
    else:
        together = (torch.cat([table[name] for name in chosen]) for table in (vectors, fitted))
        codebook, result = _cluster("shared", *together, settings, progress)
        parts = result.assignment.split([len(vectors[name]) for name in chosen])
        for name, part in zip(chosen, parts, strict=True):
            clusters[name] = codebook, part.clone(), len(result.changed), result.reseeded

    layers, statistics = {}, {}
    for node in graph.layers:
        name, parts = node.name, floats[node.name]
        if name in clusters:
            codebook, assignment, iterations, reseeded = clusters[name]
            weight = ClusteredWeight(codebook, assignment, masks[name], settings.n, settings.m, parts.weight.shape)
            extra = {"iterations": iterations, "reseeded": reseeded}
            statistics[name] = _statistics(parts.weight.cpu(), weight, extra)
        else:
            weight = _dense_weight(parts.weight.cpu())
            error = (parts.weight.cpu().double() - weight().double()) ** 2
            energy = float((parts.weight.double() ** 2).sum())
            statistics[name] = {"storage": "int8", "sse": float(error.sum()), "energy": energy}
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
