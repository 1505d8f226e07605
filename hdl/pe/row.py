"""One array row of a tile: d columns that share an activation, with a multiplier for each (dense) or for Q of them
(sparse)."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..register_file import RegisterFile, select
from ..verilog import place
from .arithmetic import PRODUCT_WIDTH
from .processing_element import ProcessingElement

__all__ = ["DenseRow", "Row", "SparseRow", "row_for"]

_SIGN = 1 << (PRODUCT_WIDTH - 1)


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
    select : In(wrf_depth). One-hot WRF read address of the next cycle.
    select_now : In(wrf_depth). ``select`` one step later (the address of the current cycle).
    write : In(wrf_depth). One-hot WRF write enables.
    weights : In(multipliers*8). Weights to write, first multiplier in the low bits.
    offsets : In(multipliers*offset_width). Their offsets (sparse rows only).
    contributions : Out(16) for each of d columns, offset binary.
    """

    latency = 1

    def __init__(self, config, module_name):
        self.config, self.module_name = config, module_name
        self.multipliers = config.multipliers_per_vector
        ports = {
            "step": In(1),
            "swap": In(1),
            "activation": In(signed(8)),
            "idle": In(1),
            "select": In(config.wrf_depth),
            "select_now": In(config.wrf_depth),
            "write": In(config.wrf_depth),
            "weights": In(self.multipliers * 8),
            "contributions": Out(PRODUCT_WIDTH).array(config.vector_length),
        }
        if config.tile == "sparse":
            ports["offsets"] = In(self.multipliers * config.offset_width)
        super().__init__(ports)

    def _processing_elements(self, m, platform):
        """WRF and processing elements; returns the latter."""
        depth = self.config.wrf_depth
        wrf = place(
            m,
            platform,
            "wrf",
            RegisterFile(depth, self.multipliers * 8, module_name=f"wrf_{depth}x{self.multipliers * 8}"),
        )
        m.d.comb += [wrf.write.eq(self.write), wrf.data.eq(self.weights), wrf.select[0].eq(self.select)]
        elements = []
        for q in range(self.multipliers):
            pe = place(m, platform, f"pe_{q}", ProcessingElement(self.config))
            m.d.comb += [
                pe.step.eq(self.step),
                pe.swap.eq(self.swap),
                pe.activation.eq(self.activation),
                pe.idle.eq(self.idle),
                pe.weight.eq(wrf.value[0].word_select(q, 8).as_signed()),
            ]
            elements.append(pe)
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
    group: 52 instead of 64 crosspoints at 4:16. The MRF is read with the delayed select, and its decoder also forces
    gated products to zero.
    Latency: see :class:`Row`.
    """

    def __init__(self, config):
        super().__init__(config, "sparse_row")

    def elaborate(self, platform):
        m = Module()
        config = self.config
        depth, width, reach = config.wrf_depth, config.offset_width, config.m - config.n + 1
        mrf_width = self.multipliers * width
        elements = self._processing_elements(m, platform)
        mrf = place(m, platform, "mrf", RegisterFile(depth, mrf_width, module_name=f"mrf_{depth}x{mrf_width}"))
        m.d.comb += [mrf.write.eq(self.write), mrf.data.eq(self.offsets), mrf.select[0].eq(self.select_now)]
        offsets = mrf.value[0]
        if depth == 1:
            offsets = Signal(mrf_width, reset_less=True)
            with m.If(self.step & self.swap):
                m.d.sync += offsets.eq(mrf.value[0])

        crosspoints = [[] for _ in range(config.vector_length)]
        for q, pe in enumerate(elements):
            group, i = divmod(q, config.n)
            for offset in range(reach):
                steer = Signal(name=f"steer_{q}_{offset}")
                m.d.comb += steer.eq((offsets.word_select(q, width) == offset) & ~pe.zero)
                crosspoints[group * config.m + offset + i].append((pe.product ^ _SIGN, steer))
        for contribution, points in zip(self.contributions, crosspoints, strict=True):
            words, lines = zip(*points, strict=True)
            m.d.comb += contribution.eq(select(words, lines) ^ _SIGN)
        return m


def row_for(config):
    """The row of the configured tile."""
    return SparseRow(config) if config.tile == "sparse" else DenseRow(config)
