"""Rebuild of weights from assignments: codebook look-up, masking, and compaction for sparse tiles (paper section 5.2,
Fig. 6)."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..register_file import select
from ..verilog import place
from .mask_decoder import MaskDecoder

__all__ = ["VectorRebuild"]


class VectorRebuild(wiring.Component):
    """One CRF port: an entry {index, mask codes} and the codeword it names to the weights of one subvector.
    Combinational.

    A dense tile gets all d weights, the masked ones as 0. A sparse tile gets only the Q weights that survive, and their
    offsets.

    Parameters
    ----------
    config : :class:`~hdl.config.ArrayConfig` with a codebook.

    Members
    -------
    entry : In(entry_width). Index in the low bits, then a mask code for each M-group.
    index : Out(index_width). To the CRF. ``codeword`` : In(d*8). From the CRF.
    weights : Out(multipliers*8). ``offsets`` : Out(multipliers*offset_width), sparse tiles only.
    """

    module_name = "vector_rebuild"
    latency = 0

    def __init__(self, config):
        self.config = config
        ports = {
            "entry": In(config.entry_width),
            "index": Out(config.index_width),
            "codeword": In(config.vector_length * 8),
            "weights": Out(config.multipliers_per_vector * 8),
        }
        if config.tile == "sparse":
            ports["offsets"] = Out(config.multipliers_per_vector * config.offset_width)
        super().__init__(ports)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.d.comb += self.index.eq(self.entry[: config.index_width])
        if not config.has_masks:
            m.d.comb += self.weights.eq(self.codeword)
            return m

        weights, offsets = [], []
        for group in range(config.mask_groups):
            decoder = place(m, platform, f"decoder_{group}", MaskDecoder(config.n, config.m, config.mask_path))
            start = config.index_width + group * config.mask_code_width
            m.d.comb += decoder.code.eq(self.entry[start : start + config.mask_code_width])
            word = [self.codeword.word_select(group * config.m + position, 8) for position in range(config.m)]
            if config.tile == "dense":
                weights += [value & decoder.mask[position].replicate(8) for position, value in enumerate(word)]
                continue
            for i in range(config.n):
                within_reach = word[i : i + config.m - config.n + 1]
                offsets.append(decoder.offsets[i])
                if config.style == "behavioural":
                    weights.append(Cat(*within_reach).word_select(decoder.offsets[i], 8))
                    continue
                lines = Signal(len(within_reach), name=f"lines_{group}_{i}")
                m.d.comb += [lines[offset].eq(decoder.offsets[i] == offset) for offset in range(len(lines))]
                weights.append(select(within_reach, lines))
        m.d.comb += self.weights.eq(Cat(*weights))
        if offsets:
            m.d.comb += self.offsets.eq(Cat(*offsets))
        return m
