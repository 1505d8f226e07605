"""Combinational tile of ``tile_rows`` rows by d columns with registers at its left and bottom edges (paper section
5.1)."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..config import address_width
from ..register_file import WordSelect
from ..verilog import place
from .arithmetic import PRODUCT_WIDTH, Adder
from .row import row_for, stored_positions

__all__ = ["Tile"]


class Tile(wiring.Component):
    """``tile_rows`` x d dense or sparse tile.

    Latency: an activation passes on to the right after ``latency_right`` = 1 step, and is in ``psums_out`` after
    ``latency`` = 3 steps (edge register, operand register, psum register). ``psums_in`` must be valid in the third.

    Parameters
    ----------
    config : :class:`~hdl.config.ArrayConfig`.

    Members
    -------
    step : In(1). Advance; the pipeline holds while low. Weight writes do not wait for it.
    activations : In(signed(8)) for each row, and ``valid``, ``swap``, ``address``: control that travels with them.
    write_row : In(tile_rows). Rows to write; ``write_address``: WRF word; ``weights``, ``offsets``: the subvector.
    psums_in, psums_out : partial sums of d columns (``psum_width`` bits) from above and to below.
    gated : Out. Multiplications that a zero saved in the cycle before (with ``gating_counter`` only).
    ``*_right`` : activations and control, registered, for the tile on the right.
    """

    latency = 3
    latency_right = 1

    def __init__(self, config):
        self.config = config
        self.module_name = f"{config.tile}_tile"
        rows, d = config.tile_rows, config.vector_length
        control = {"valid": 1, "swap": 1, "address": config.entry_address_width}
        ports = {
            "step": In(1),
            "activations": In(signed(8)).array(rows),
            **{name: In(width) for name, width in control.items()},
            "activations_right": Out(signed(8)).array(rows),
            **{f"{name}_right": Out(width) for name, width in control.items()},
            "write_row": In(rows),
            "write_address": In(config.entry_address_width),
            "weights": In(config.multipliers_per_vector * 8),
            "psums_in": In(config.psum_width).array(d),
            "psums_out": Out(config.psum_width).array(d),
        }
        if config.tile == "sparse":
            ports["offsets"] = In(config.multipliers_per_vector * config.offset_width)
        if config.gating_counter:
            ports["gated"] = Out(address_width(rows * config.multipliers_per_vector + 1))
        super().__init__(ports)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        depth, words = config.wrf_depth, WordSelect(config.wrf_depth, config.style)

        # Left edge: what the tile works on, one step after its left neighbour.
        activations = [Signal(signed(8), name=f"activation_{r}", reset_less=True) for r in range(config.tile_rows)]
        valid, swap = Signal(), Signal()
        address = Signal(config.entry_address_width, reset_less=True)
        with m.If(self.step):
            m.d.sync += [edge.eq(value) for edge, value in zip(activations, self.activations, strict=True)]
            m.d.sync += [valid.eq(self.valid), swap.eq(self.swap), address.eq(self.address)]
        m.d.comb += [out.eq(edge) for out, edge in zip(self.activations_right, activations, strict=True)]
        m.d.comb += [self.valid_right.eq(valid), self.swap_right.eq(swap), self.address_right.eq(address)]

        select = words.read(m, "select", address)
        select_now = Signal(words.width, reset_less=True)
        if depth > 1:
            with m.If(self.step):
                m.d.sync += select_now.eq(select)
        write = words.read(m, "write", self.write_address)

        if config.tile == "sparse":
            positions = stored_positions(m, config, self.offsets)
        contributions, gated = [], []
        for r in range(config.tile_rows):
            row = place(m, platform, f"row_{r}", row_for(config))
            m.d.comb += [
                row.step.eq(self.step),
                row.swap.eq(swap),
                row.activation.eq(activations[r]),
                row.idle.eq(~valid | (activations[r] == 0)),
                row.select.eq(select),
                row.select_now.eq(select_now),
                row.write.eq(words.gate(write, self.write_row[r])),
                row.weights.eq(self.weights),
            ]
            if config.tile == "sparse":
                m.d.comb += row.positions.eq(positions)
            contributions.append(row.contributions)
            if config.gating_counter:
                gated.append(row.gated)
        if config.gating_counter:
            valid_now = Signal()
            with m.If(self.step):
                m.d.sync += valid_now.eq(valid)
            m.d.sync += self.gated.eq(Mux(valid_now & self.step, sum(gated), 0))

        for column in range(config.vector_length):
            adder = place(
                m,
                platform,
                f"column_{column}",
                Adder(config.tile_rows, PRODUCT_WIDTH, config.psum_width, config.style),
            )
            m.d.comb += adder.base.eq(self.psums_in[column])
            m.d.comb += [adder.terms[r].eq(contributions[r][column]) for r in range(config.tile_rows)]
            psum = Signal(config.psum_width, name=f"psum_{column}", reset_less=True)
            with m.If(self.step):
                m.d.sync += psum.eq(adder.total)
            m.d.comb += self.psums_out[column].eq(psum)
        return m
