"""Partial-sum file (PRF) along the bottom edge of the array, with the adder that accumulates into it (paper Fig. 6)."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..config import address_width
from ..pe.arithmetic import Adder
from ..register_file import RegisterFile, WordSelect
from ..verilog import place

__all__ = ["PartialSumFile"]


class _Column(wiring.Component):
    """One column: ``total = sum + (first ? initial : word)``, written back to the word."""

    module_name = "psum_column"

    def __init__(self, config):
        self.config = config
        width = config.psum_width
        words = WordSelect(config.prf_depth, config.style)
        super().__init__(
            {
                "sum": In(width),
                "initial": In(width),
                "first": In(1),
                "select": In(words.width),
                "write": In(words.write_width),
                "total": Out(width),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, width = self.config, self.config.psum_width
        adder = place(m, platform, "adder", Adder(1, width, width, config.style))
        m.d.comb += [adder.terms[0].eq(self.sum), adder.base.eq(self.initial), self.total.eq(adder.total)]
        if config.wrf_depth > 1:  # with one word a subset has a single step for each pixel, which is the first
            prf = place(
                m,
                platform,
                "prf",
                RegisterFile(
                    config.prf_depth, width, style=config.style, module_name=f"prf_{config.prf_depth}x{width}"
                ),
            )
            m.d.comb += [prf.select[0].eq(self.select), prf.write.eq(self.write), prf.data.eq(adder.total)]
            with m.If(~self.first):
                m.d.comb += adder.base.eq(prf.value[0])
        return m


class PartialSumFile(wiring.Component):
    """``prf_depth`` vectors of partial sums and one adder for each column. ``total`` is combinational; the file is
    written with ``step``.

    Parameters
    ----------
    config : :class:`~hdl.config.ArrayConfig`.

    Members
    -------
    step : In(1). ``valid`` : In(1). There is a sum to add.
    address : In. Vector s of A. ``first`` : In(1). Start from ``initial`` instead of the file.
    sums, initial, totals : ``psum_width`` bits for each column.
    """

    module_name = "partial_sum_file"
    latency = 0

    def __init__(self, config):
        self.config = config
        width, columns = config.psum_width, config.columns
        super().__init__(
            {
                "step": In(1),
                "valid": In(1),
                "address": In(address_width(config.prf_depth)),
                "first": In(1),
                "sums": In(width).array(columns),
                "initial": In(width).array(columns),
                "totals": Out(width).array(columns),
            }
        )

    def elaborate(self, platform):
        m = Module()
        words = WordSelect(self.config.prf_depth, self.config.style)
        select = words.read(m, "select", self.address)
        for index in range(self.config.columns):
            column = place(m, platform, f"column_{index}", _Column(self.config))
            m.d.comb += [
                column.sum.eq(self.sums[index]),
                column.initial.eq(self.initial[index]),
                column.first.eq(self.first),
                column.select.eq(select),
                column.write.eq(words.gate(select, self.step & self.valid)),
                self.totals[index].eq(column.total),
            ]
        return m
