"""The weight stream of a layer in memory: headers and packed subsets."""

import dataclasses
from dataclasses import dataclass

from golden.schedule import schedule
from golden.stream import command_fields, pack_fields

__all__ = ["LayerWeights", "Segment"]


@dataclass(frozen=True)
class Segment:
    """A part of the weights memory: what one ``conv`` streams.

    Parameters
    ----------
    groups : groups of output channels, a range. ``address`` : bytes from the start of the weights. ``words`` : of the
        bus.
    """

    groups: range
    address: int
    words: int


class LayerWeights:
    """Writes the weight stream of one layer, block by block of its output channels.

    A stream that loads the codebook cannot be repeated for the next strip without loading it again. So where a layer
    has several strips, its first one takes a copy of the block's first subsets with the codewords in front, which ends
    with the first A groups of output channels, and then the rest of the block's stream from the middle.

    Parameters
    ----------
    layer : :class:`golden.program.layers.Layer`. ``repeats`` : :class:`golden.schedule.Repeats`.
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`. ``memory`` : bytearray of all weights, which grows.
    """

    #: bytes to which each stream is aligned.
    alignment = 64

    def __init__(self, layer, repeats, config, memory):
        self.layer, self.config, self.memory = layer, config, memory
        self.fields, self.header_bytes = config.subset_fields, config.subset_words * config.bus_bytes
        self.subsets = schedule(
            layer.shape,
            config.array,
            repeats,
            compressed=layer.compressed,
            raw=layer.result.raw,
            diagonal=layer.diagonal,
        ).subsets

    def block(self, groups, *, codebook, strips):
        """Stream of the subsets of ``groups``.

        Parameters
        ----------
        groups : range of groups of output channels. ``codebook`` : the first strip loads the codebook.
        strips : how many strips run the block.

        Returns
        -------
        (segments of the first strip, segments of the others)
        """
        subsets = [subset for subset in self.subsets if subset.out_groups.start in groups]
        if not codebook or strips == 1:
            whole, _ = self._write(groups, subsets, codebook)
            return [whole], [whole]
        first = subsets[0].out_groups
        head = [subset for subset in subsets if subset.out_groups == first]
        start, _ = self._write(first, head, True)
        whole, addresses = self._write(groups, subsets, False)
        if first == groups:
            return [start], [whole]
        skipped = addresses[len(head)]
        rest = Segment(
            range(first.stop, groups.stop), skipped, whole.words - (skipped - whole.address) // self.config.bus_bytes
        )
        return [start, rest], [whole]

    def _write(self, groups, subsets, codebook):
        """(Segment, address of each subset) of ``subsets``, the first with codewords when ``codebook``."""
        config, image = self.config, self.layer.image
        self.memory.extend(bytes(-len(self.memory) % self.alignment))
        start, addresses = len(self.memory), []
        for number, subset in enumerate(subsets):
            if codebook and number == 0:
                subset = dataclasses.replace(subset, codewords=len(image.codebook))
            rows, columns = zip(*subset.taps, strict=True)
            header = {
                **command_fields(subset, config.array, image.requantisation),
                "in_group": subset.in_groups.start - (groups.start if self.layer.channelwise else 0),
                "in_groups": len(subset.in_groups),
                "tap_row": min(rows),
                "tap_column": min(columns),
                "tap_rows": len(set(rows)),
                "tap_columns": len(set(columns)),
                "last": int(number == len(subsets) - 1),
            }
            addresses.append(len(self.memory))
            self.memory += pack_fields(header, self.fields).to_bytes(self.header_bytes, "little")
            self.memory += image.words(subset).astype("<u8").tobytes()
        return Segment(groups, start, (len(self.memory) - start) // config.bus_bytes), addresses
