"""From a compressed checkpoint to what one array runs: schedule, packed image and expected values of each layer."""

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from golden.checkpoint import MvqLayer
from golden.integer import Requantisation
from golden.network import IntegerNetwork, quantise
from golden.schedule import LayerShape, choose_repeats, cycles, schedule
from golden.stream import WeightImage, command_fields, gather_ifmap, pack_command, partial_sums
from hdl.config import MvqError

__all__ = ["LoweredLayer", "LoweredNetwork", "LoweringError", "SubsetRun", "lower"]


class LoweringError(MvqError):
    """A layer that the array cannot run.

    Parameters
    ----------
    layer : its name. ``reason`` : why. ``legal`` : what would be.
    """

    def __init__(self, layer, reason, legal):
        self.layer, self.reason, self.legal = layer, reason, legal
        super().__init__(f"layer {layer!r}: {reason}; legal would be {legal}")


@dataclass(frozen=True, eq=False)
class SubsetRun:
    """One command with the stream contents that belong to it and what must come out.

    Parameters
    ----------
    subset : :class:`golden.schedule.Subset`. ``command`` : packed command.
    words : uint64, weight stream. ``ifmap`` : int8 (vectors, H).
    psum_in : int64 (pixels, A, L), or None. ``psums`` : int64 (pixels, A, L), expected; ``values`` : int8, or None
        unless final.
    """

    subset: object
    command: int
    words: np.ndarray
    ifmap: np.ndarray
    psum_in: np.ndarray | None
    psums: np.ndarray
    values: np.ndarray | None


@dataclass(frozen=True, eq=False)
class LoweredLayer:
    """A convolution or linear layer on one array.

    Parameters
    ----------
    shape : :class:`LayerShape` of one image. ``padding`` : [top, bottom, left, right].
    image : :class:`WeightImage`. ``config`` : the array. ``repeats`` : A, B, D, P.
    psum_bound : (low, high) that no partial sum can leave.
    """

    shape: LayerShape
    padding: tuple
    image: WeightImage
    config: object
    repeats: object
    psum_bound: tuple

    @property
    def compressed(self):
        """True when the array reads codebook indices for this layer."""
        return self.image.entries is not None

    def schedule(self, batch=1):
        """:class:`golden.schedule.Schedule` for ``batch`` images one after another."""
        return schedule(
            dataclasses.replace(self.shape, batch=batch),
            self.config,
            self.repeats,
            compressed=self.compressed,
            codewords=len(self.image.codebook) if self.compressed else 0,
            raw=self.image.requantisation is None,
        )

    def cycles(self, batch=1):
        """Cycles of the layer alone, streams never waiting."""
        return cycles(self.schedule(batch).subsets, self.config)

    def runs(self, x):
        """Yield a :class:`SubsetRun` for each subset, in order.

        Parameters
        ----------
        x : int8 (N, C, height, width), or (N, features) of a linear layer.
        """
        if x.ndim == 2:
            x = x[:, :, None, None]
        plan = self.schedule(len(x))
        total = None
        for subset in plan.subsets:
            added = partial_sums(x, subset, plan.shape, self.padding, self.image)
            before = total if subset.accumulate else None
            total = self._wrap(added if before is None else before + added)
            yield SubsetRun(
                subset=subset,
                command=pack_command(command_fields(subset, self.config, self.image.requantisation), self.config),
                words=self.image.words(subset),
                ifmap=gather_ifmap(x, subset, plan.shape, self.padding, self.config),
                psum_in=before,
                psums=total,
                values=self._requantise(subset, total) if subset.final else None,
            )

    def _wrap(self, psums):
        """``psums`` in ``psum_width`` bits; only columns without an output channel can leave them."""
        half = 1 << (self.config.psum_width - 1)
        return (psums + half) % (2 * half) - half

    def _requantise(self, subset, psums):
        """int8 (pixels, A, L); columns beyond the last output channel have the scale word 0."""
        words, limits = self.image.scale_words(subset).reshape(-1), self.image.requantisation
        values = Requantisation.from_words(words, limits.low, limits.high)
        return values.apply(psums.reshape(len(psums), -1)).reshape(psums.shape)

    def assemble(self, batch, subset_outputs):
        """Ofmap (N, K, height, width), or (N, K) of a linear layer, from the outputs (pixels, A, L) of the last
        subsets.

        Parameters
        ----------
        subset_outputs : list of (subset, array) in order; earlier partial sums are ignored.
        """
        height, width = self.shape.pixels
        config = self.config
        ofmap = np.zeros((batch, self.image.weight.shape[0], height, width), subset_outputs[-1][1].dtype)
        for subset, output in subset_outputs:  # the last subset of its output channels overwrites the partial ones
            values = output.reshape(batch, height, width, -1).transpose(0, 3, 1, 2)
            ofmap[:, subset.out_groups.start * config.columns : subset.out_groups.stop * config.columns] = values
        return ofmap[:, : self.image.out_channels]

    def locate(self, subset, pixel, group, column):
        """Names of a place in a subset's output, for mismatch reports."""
        height, width = self.shape.pixels
        image, inside = divmod(pixel, height * width)
        row, col = divmod(inside, width)
        channel = subset.out_groups[group] * self.config.columns + column
        taps = ", ".join(f"({ky},{kx})" for ky, kx in subset.taps)
        return (
            f"layer {self.shape.name!r}, tile (output group {subset.out_groups[group]}, input groups "
            f"{subset.in_groups.start}..{subset.in_groups.stop - 1}, taps {taps}), image {image}, row {row}, "
            f"column {col}, array column {column} (output channel {channel})"
        )


@dataclass(frozen=True, eq=False)
class LoweredNetwork:
    """A network on one array: the integer network, and each of its weighted layers lowered."""

    network: IntegerNetwork
    config: object
    layers: dict[str, LoweredLayer] = field(default_factory=dict)


def _masked_assignments(name, layer, config):
    """Assignments of a masked layer as they stand, if the array's codebook path has their format."""
    book = layer.codebook
    for what, has, wants in (
        ("vector_length", book.vector_length, config.vector_length),
        ("n", layer.n, config.n),
        ("m", layer.m, config.m),
    ):
        if has != wants:
            raise LoweringError(
                name,
                f"is compressed with {what} = {has}, but {config.name} has {what} = {wants}",
                f"to compress with {what} = {wants}, or an array with {what} = {has}",
            )
    if book.codewords > config.codewords:
        raise LoweringError(
            name,
            f"has {book.codewords} codewords, but {config.name} holds {config.codewords}",
            f"codewords <= {config.codewords}",
        )
    return book.values, layer.index, layer.mask_codes


def _distinct_assignments(name, weight, config):
    """Assignments to the distinct vectors of ``weight``: exact, for a codebook without masks."""
    d = config.vector_length
    padded = np.pad(weight, ((0, -len(weight) % d), (0, 0), (0, 0), (0, 0)))
    vectors = np.moveaxis(padded.reshape(-1, d, *weight.shape[1:]), 1, -1)
    values, index = np.unique(vectors.reshape(-1, d), axis=0, return_inverse=True)
    if len(values) > config.codewords:
        raise LoweringError(
            name,
            f"needs {len(values)} distinct vectors of {d} weights, but {config.name} holds {config.codewords}",
            f"an array with masks (ews-cm, ews-cms), or a layer of at most {config.codewords} codewords of {d}",
        )
    return values.astype(np.int8), index.reshape(vectors.shape[:-1]), None


def _assignments(name, layer, weight, config):
    """(codebook, index, mask codes) of a layer as the array reads it, or None for int8 weights."""
    if not config.has_codebook or not isinstance(layer, MvqLayer):
        return None
    book = layer.codebook
    plain = layer.mask_codes is None and book.vector_length == config.vector_length
    if config.has_masks:
        if plain:
            raise LoweringError(
                name,
                f"is compressed without masks, but {config.name} reads {config.n}:{config.m} masks",
                "ews-c, or masks",
            )
        values, index, codes = _masked_assignments(name, layer, config)
    elif plain and book.codewords <= config.codewords:
        values, index, codes = book.values, layer.index, None
    else:
        return _distinct_assignments(name, weight, config)
    shape = (-(-weight.shape[0] // config.vector_length), *weight.shape[1:])
    return values, index.reshape(shape), None if codes is None else codes.reshape(*shape, -1)


def lower(checkpoint, calibration, config):
    """Lower a compressed network to one array.

    Parameters
    ----------
    checkpoint : :class:`golden.Checkpoint`. ``calibration`` : :class:`golden.Calibration`.
    config : :class:`~hdl.config.ArrayConfig`.

    Returns
    -------
    LoweredNetwork

    Raises
    ------
    LoweringError : a layer cannot run; names the layer, the reason, and what would be legal. Among the reasons: a
        partial sum could leave ``psum_width`` for the weights at hand.
    """
    network = quantise(checkpoint, calibration)
    shapes = network.graph.shapes()
    lowered = LoweredNetwork(network, config)
    for node in network.graph.layers:
        layer, attrs = network.layers[node.name], node.attrs
        weight = layer.weight.reshape(*layer.weight.shape, *[1] * (4 - layer.weight.ndim))
        low, high = network.psum_bound(node.name)
        needed = max(high.bit_length(), (-low - 1).bit_length()) + 1
        if needed > config.psum_width:
            raise LoweringError(
                node.name,
                f"can reach partial sums of {low} to {high}, beyond psum_width = {config.psum_width}",
                f"psum_width >= {needed}",
            )
        groups = attrs.get("groups", 1)
        conv = node.op == "conv"
        shape = LayerShape(
            name=node.name,
            out_channels=weight.shape[0],
            in_channels=weight.shape[1] * groups,
            groups=groups,
            **({"kernel": tuple(attrs["kernel"]), "stride": tuple(attrs["stride"])} if conv else {}),
            **({"pixels": tuple(shapes[node.name][1:])} if conv else {}),
        )
        if groups > 1 and isinstance(checkpoint.layers[node.name], MvqLayer):
            raise LoweringError(
                node.name, f"is compressed and has {groups} groups", "a grouped layer that stays dense int8"
            )
        assignments = _assignments(node.name, checkpoint.layers[node.name], weight, config)
        image = WeightImage(config, weight, groups, assignments, layer.requantisation)
        lowered.layers[node.name] = LoweredLayer(
            shape=shape,
            padding=tuple(attrs["padding"]) if conv else (0, 0, 0, 0),
            image=image,
            config=config,
            repeats=choose_repeats(shape, config, compressed=assignments is not None),
            psum_bound=(low, high),
        )
    return lowered
