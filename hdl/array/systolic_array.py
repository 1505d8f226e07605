"""Tiles into an array of ``rows`` x ``columns``: skewed in, straight out (paper section 5.1, Fig. 6)."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..config import address_width
from ..delay import Delay
from ..pe.arithmetic import PRODUCT_WIDTH
from ..pe.tile import Tile
from ..verilog import place

__all__ = ["SystolicArray"]


def _delayed(m, platform, name, step, value, steps, **kwargs):
    if steps == 0:
        return value
    delay = place(m, platform, name, Delay(len(value), steps, **kwargs))
    m.d.comb += [delay.step.eq(step), delay.value_in.eq(value)]
    return delay.value_out


class SystolicArray(wiring.Component):
    """Grid of tiles with the skew that their edge registers ask for.

    All columns of one activation vector come out together, ``latency`` = tile rows + tile columns + 1 steps after it
    went in: what a tile on the left has ready early waits in a delay line below it. The sums are free of the offset
    that binary products carry: it is taken away where partial sums enter at the top.

    Parameters
    ----------
    config : :class:`~hdl.config.ArrayConfig`.

    Members
    -------
    step : In(1). Advance; weight writes do not wait for it.
    activations : In(signed(8)) for each row; ``valid``, ``swap`` (first vector of a weight subset) and ``address``
        (WRF word) with them.
    write : In(1), ``write_groups`` : In(L/d), ``write_row``, ``write_address``: where to write a subvector of weights.
    weights, offsets : for each CRF port, the subvector that it drives to the groups g with g mod ports = port.
    gated : Out. Multiplications that a zero saved (with ``gating_counter`` only).
    sums : Out(psum_width) for each column, modulo 2**psum_width.
    """

    module_name = "systolic_array"

    def __init__(self, config):
        self.config = config
        ports = {
            "step": In(1),
            "activations": In(signed(8)).array(config.rows),
            "valid": In(1),
            "swap": In(1),
            "address": In(config.entry_address_width),
            "write": In(1),
            "write_groups": In(config.groups),
            "write_row": In(address_width(config.rows)),
            "write_address": In(config.entry_address_width),
            "weights": In(config.multipliers_per_vector * 8).array(config.crf_read_ports),
            "sums": Out(config.psum_width).array(config.columns),
        }
        if config.tile == "sparse":
            ports["offsets"] = In(config.multipliers_per_vector * config.offset_width).array(config.crf_read_ports)
        if config.gating_counter:
            ports["gated"] = Out(address_width(config.multipliers + 1))
        super().__init__(ports)

    @property
    def latency(self):
        """Steps from ``activations`` to ``sums``."""
        return self.config.latency

    def elaborate(self, platform):
        m = Module()
        config = self.config
        d, height = config.vector_length, config.tile_rows
        tile_rows, tile_columns = config.tile_grid
        offset_constant = -(config.rows << (PRODUCT_WIDTH - 1)) % (1 << config.psum_width)

        tiles = {}
        for tr in range(tile_rows):
            control = Cat(self.valid, self.swap)
            data = Cat(self.address, *(self.activations[tr * height + r] for r in range(height)))
            control = _delayed(m, platform, f"skew_control_{tr}", self.step, control, tr, reset=True)
            data = _delayed(m, platform, f"skew_{tr}", self.step, data, tr)
            address, activations = data[: len(self.address)], data[len(self.address) :]
            rows_hit = Signal(height, name=f"rows_hit_{tr}")
            for r in range(height):
                m.d.comb += rows_hit[r].eq(self.write & (self.write_row == tr * height + r))
            for tc in range(tile_columns):
                tile = tiles[tr, tc] = place(m, platform, f"tile_{tr}_{tc}", Tile(config))
                m.d.comb += [
                    tile.step.eq(self.step),
                    tile.write_row.eq(rows_hit & self.write_groups[tc].replicate(height)),
                    tile.write_address.eq(self.write_address),
                    tile.weights.eq(self.weights[tc % config.crf_read_ports]),
                ]
                if config.tile == "sparse":
                    m.d.comb += tile.offsets.eq(self.offsets[tc % config.crf_read_ports])
                if tc == 0:
                    m.d.comb += Cat(tile.valid, tile.swap).eq(control)
                    m.d.comb += tile.address.eq(address)
                    m.d.comb += Cat(*tile.activations).eq(activations)
                else:
                    left = tiles[tr, tc - 1]
                    m.d.comb += [getattr(tile, n).eq(getattr(left, f"{n}_right")) for n in ("valid", "swap", "address")]
                    m.d.comb += [a.eq(b) for a, b in zip(tile.activations, left.activations_right, strict=True)]
                for column in range(d):
                    above = offset_constant if tr == 0 else tiles[tr - 1, tc].psums_out[column]
                    m.d.comb += tile.psums_in[column].eq(above)

        if config.gating_counter:
            m.d.comb += self.gated.eq(sum(tile.gated for tile in tiles.values()))
        for tc in range(tile_columns):
            psums = Cat(*tiles[tile_rows - 1, tc].psums_out)
            psums = _delayed(m, platform, f"straighten_{tc}", self.step, psums, tile_columns - 1 - tc)
            m.d.comb += Cat(*(self.sums[tc * d + column] for column in range(d))).eq(psums)
        return m
