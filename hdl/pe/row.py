"""One array row of a tile: d columns that share an activation, with a multiplier for each (dense) or for Q of them
(sparse)."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..config import address_width
from ..register_file import RegisterFile, WordSelect, any_of
from ..verilog import place
from .arithmetic import PRODUCT_WIDTH
from .offset_pairs import fold, folded_width, unfold_lines
from .processing_element import ProcessingElement

__all__ = ["DenseRow", "Row", "SparseRow", "position_layout", "position_width", "row_for", "stored_positions"]

_SIGN = 1 << (PRODUCT_WIDTH - 1)


def position_layout(config):
    """(first multiplier, multipliers, bits) of each part of an MRF word: pairs of offsets of one group, folded where
    that saves bits, or single offsets. Only the structural style folds: in LUTs, unfolding costs more than a bit."""
    pair = folded_width(config.m - config.n + 1) if config.style == "structural" else None
    for group in range(0, config.multipliers_per_vector, config.n):
        for first in range(0, config.n, 2):
            if pair and first + 1 < config.n:
                yield group + first, 2, pair
                continue
            for q in range(first, min(first + 2, config.n)):
                yield group + q, 1, config.offset_width


def position_width(config):
    """Bits of an MRF word: 14 at 4:16, d = 16 when ``structural``, else 16."""
    return sum(width for _, _, width in position_layout(config))


def stored_positions(m, config, offsets):
    """``offsets`` of a subvector (multipliers*offset_width bits, ascending in each group) as an MRF word."""
    reach, parts = config.m - config.n + 1, []
    for first, count, _ in position_layout(config):
        own = [offsets.word_select(q, config.offset_width) for q in range(first, first + count)]
        parts.append(fold(m, f"pair_{first}", *own, reach) if count == 2 else own[0])
    return Cat(*parts)


class Row(wiring.Component):
    """What the dense and the sparse row share: ports, WRF and processing elements.

    Latency: one cycle from ``activation`` to ``contributions``; a written weight can be read in the next cycle.

    Parameters
    ----------
    config : :class:`~hdl.config.ArrayConfig`.

    Members
    -------
    step, swap : In(1). See :class:`~hdl.pe.processing_element.ProcessingElement`.
    activation : In(signed(8)). Activation of the next cycle, for all columns.
    idle : In(1). ``activation`` is zero or there is none.
    select : In. WRF word of the next cycle, as :class:`~hdl.register_file.WordSelect` has it.
    select_now : In. ``select`` one step later (the word of the current cycle).
    write : In. WRF word to write, if any.
    weights : In(multipliers*8). Weights to write, first multiplier in the low bits.
    positions : In(position_width(config)). Their offsets as the MRF keeps them, see :func:`stored_positions` (sparse
        rows only).
    contributions : Out(16) for each of d columns, offset binary.
    gated : Out. Products that are zero (with ``gating_counter`` only).
    """

    latency = 1

    def __init__(self, config, module_name):
        self.config, self.module_name = config, module_name
        self.multipliers = config.multipliers_per_vector
        words = WordSelect(config.wrf_depth, config.style)
        ports = {
            "step": In(1),
            "swap": In(1),
            "activation": In(signed(8)),
            "idle": In(1),
            "select": In(words.width),
            "select_now": In(words.width),
            "write": In(words.write_width),
            "weights": In(self.multipliers * 8),
            "contributions": Out(PRODUCT_WIDTH).array(config.vector_length),
        }
        if config.tile == "sparse":
            ports["positions"] = In(position_width(config))
        if config.gating_counter:
            ports["gated"] = Out(address_width(self.multipliers + 1))
        super().__init__(ports)

    def _register_file(self, m, platform, name, data, select):
        """What register file ``name`` reads at ``select``; ``data`` is written to it."""
        depth, style = self.config.wrf_depth, self.config.style
        file = RegisterFile(
            depth, len(data), style=style, module_name=f"{name}_{depth}x{len(data)}", read_during_write=False
        )
        place(m, platform, name, file)
        m.d.comb += [file.write.eq(self.write), file.data.eq(data), file.select[0].eq(select)]
        return file.value[0]

    def _processing_elements(self, m, platform):
        """WRF and processing elements; returns the latter."""
        weights = self._register_file(m, platform, "wrf", self.weights, self.select)
        elements = []
        for q in range(self.multipliers):
            pe = place(m, platform, f"pe_{q}", ProcessingElement(self.config))
            m.d.comb += [
                pe.step.eq(self.step),
                pe.swap.eq(self.swap),
                pe.activation.eq(self.activation),
                pe.idle.eq(self.idle),
                pe.weight.eq(weights.word_select(q, 8).as_signed()),
            ]
            elements.append(pe)
        if self.config.gating_counter:
            m.d.comb += self.gated.eq(sum(pe.zero for pe in elements))
        return elements


class DenseRow(Row):
    """d multipliers for d columns. A gated product is forced to zero, which is 2**15 in offset binary.

    Latency: see :class:`Row`.
    """

    def __init__(self, config):
        super().__init__(config, "dense_row")

    def elaborate(self, platform):
        m = Module()
        for pe, contribution in zip(self._processing_elements(m, platform), self.contributions, strict=True):
            magnitude = pe.product[:-1] & ~pe.zero.replicate(PRODUCT_WIDTH - 1)
            m.d.comb += contribution.eq(Cat(magnitude, pe.product[-1] | pe.zero))
        return m


class SparseRow(Row):
    """Q multipliers for d columns, their products steered by the position file (MRF) beside the WRF (paper Tab. 2).

    The MRF holds the offset e_q = position_q - q of each weight, so product q can reach only M-N+1 columns of its
    group: 52 instead of 64 crosspoints at 4:16. Offsets ascend, so two of them fit fewer bits, which the structural
    style uses (:mod:`hdl.pe.offset_pairs`). The MRF is read with the delayed select, and its decoder also forces gated
    products to zero.
    Latency: see :class:`Row`.
    """

    def __init__(self, config):
        super().__init__(config, "sparse_row")

    def elaborate(self, platform):
        m = Module()
        config = self.config
        reach = config.m - config.n + 1
        elements = self._processing_elements(m, platform)
        positions = written = self._register_file(m, platform, "mrf", self.positions, self.select_now)
        if config.wrf_depth == 1:
            positions = Signal.like(self.positions, reset_less=True)
            with m.If(self.step & self.swap):
                m.d.sync += positions.eq(written)

        crosspoints = [[] for _ in range(config.vector_length)]
        start = 0
        for first, count, width in position_layout(config):
            stored = positions[start : start + width]
            start += width
            for q, chosen in enumerate(self._chosen(m, first, count, stored), first):
                group, i = divmod(q, config.n)
                steer = self._steering(m, elements[q], q, chosen)
                for offset in range(reach):
                    crosspoints[group * config.m + offset + i].append(steer(offset))
        for contribution, terms in zip(self.contributions, crosspoints, strict=True):
            m.d.comb += contribution.eq(any_of(terms) ^ _SIGN)
        return m

    def _chosen(self, m, first, count, stored):
        """The offset of each of ``count`` multipliers from ``first`` on: one-hot lines when ``structural``, else a
        number."""
        config = self.config
        reach = config.m - config.n + 1
        if config.style == "behavioural":
            return [stored]
        if count == 2:
            return unfold_lines(m, f"pair_{first}", stored, reach)
        return [[stored == offset for offset in range(reach)]]

    def _steering(self, m, pe, q, chosen):
        """Function of an offset: the product of ``pe``, without the offset of binary products, if its own offset is
        that one, else 0."""
        if self.config.style == "structural":
            lines = [Signal(name=f"steer_{q}_{offset}") for offset in range(len(chosen))]
            m.d.comb += [line.eq(hit & ~pe.zero) for line, hit in zip(lines, chosen, strict=True)]
            return lambda offset: (pe.product ^ _SIGN) & lines[offset].replicate(PRODUCT_WIDTH)
        position = Signal(self.config.offset_width, name=f"position_{q}")
        product = Signal(PRODUCT_WIDTH, name=f"product_{q}")
        m.d.comb += [position.eq(chosen), product.eq(Mux(pe.zero, 0, pe.product ^ _SIGN))]
        return lambda offset: Mux(position == offset, product, 0)


def row_for(config):
    """The row of the configured tile."""
    return SparseRow(config) if config.tile == "sparse" else DenseRow(config)
