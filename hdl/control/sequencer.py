"""Sequencer: runs the loops over pixels, taps, input-channel groups and output-channel groups of one weight subset."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..array.activation_file import successor
from ..config import address_width
from .weight_loader import subset_layout

__all__ = ["Sequencer", "control_layout"]


def control_layout(config):
    """What travels beside an activation vector to the bottom of the array."""
    widths = dict(config.command_fields)
    return data.StructLayout(
        {
            "valid": 1,
            "psum_address": address_width(config.prf_depth),
            "scale_address": address_width(config.scale_depth),
            "first": 1,
            "last": 1,
            "end": 1,
            "accumulate": 1,
            "final": 1,
            "raw": 1,
            "relu": 1,
            "high": widths["high"],
            "entries_freed": widths["entries"],
            "scales_freed": widths["scales"],
        }
    )


class Sequencer(wiring.Component):
    """One WRF word a step: pixels, then the B*D vectors of a pixel, dense passes, and the A output-channel groups
    innermost.

    Latency: the first step of a subset comes in the cycle after it was taken, the first of the next subset right after
    the last of this one, if the activation file has its vector.

    Parameters
    ----------
    config : :class:`~hdl.config.ArrayConfig`.

    Members
    -------
    subset : In(stream of subset_layout). ``step`` : In(1). The array advances.
    available : In(1); ``advance``, ``free``, ``rewind`` : Out(1). See
        :class:`~hdl.array.activation_file.ActivationFile`.
    starved : Out(1). A subset waits for an activation vector.
    issue : Out(1), ``swap`` : Out(1), ``address`` : Out. To the array. ``control`` : Out(control_layout). To its
        bottom edge.
    """

    module_name = "sequencer"
    latency = 1

    def __init__(self, config):
        self.config = config
        super().__init__(
            {
                "subset": In(stream.Signature(subset_layout(config))),
                "step": In(1),
                "available": In(1),
                "advance": Out(1),
                "free": Out(1),
                "rewind": Out(1),
                "issue": Out(1),
                "starved": Out(1),
                "swap": Out(1),
                "address": Out(config.entry_address_width),
                "control": Out(control_layout(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        now = Signal(subset_layout(config))
        active, fresh_subset = Signal(), Signal()
        group = Signal(address_width(config.prf_depth))
        scale = Signal.like(self.control.scale_address)
        dense_pass, vector = Signal.like(now.passes), Signal.like(now.vectors)
        row_left, pixels_left = Signal.like(now.row_pixels), Signal.like(now.pixels)
        address = Signal(config.entry_address_width)

        go = Signal()
        last_group, last_pass, last_vector, last_in_row, last_pixel = (
            Signal(name=f"last_{name}") for name in ("group", "pass", "vector", "in_row", "pixel")
        )
        end = Signal()
        m.d.comb += [
            self.issue.eq(active & self.available),
            self.starved.eq(active & ~self.available),
            go.eq(self.issue & self.step),
            last_group.eq(group == now.out_channel_repeat - 1),
            last_pass.eq(dense_pass == now.passes - 1),
            last_vector.eq(vector == now.vectors - 1),
            last_in_row.eq(row_left == 1),
            last_pixel.eq(pixels_left == 1),
            end.eq(last_group & last_pass & last_vector & last_pixel),
            self.advance.eq(go & last_group & last_pass),
            self.free.eq(last_in_row | last_pixel | (vector < now.fresh)),
            self.rewind.eq(last_vector),
            self.address.eq(address),
            self.swap.eq(fresh_subset),
        ]
        with m.If(go):
            m.d.sync += [fresh_subset.eq(0), group.eq(group + 1), scale.eq(successor(scale, config.scale_depth))]
            m.d.sync += address.eq(successor(address, config.wrf_depth))
            with m.If(last_group):
                m.d.sync += [group.eq(0), scale.eq(now.scale_address), dense_pass.eq(dense_pass + 1)]
                with m.If(last_pass):
                    m.d.sync += [dense_pass.eq(0), vector.eq(vector + 1)]
                    with m.If(last_vector):
                        m.d.sync += [vector.eq(0), address.eq(now.address), pixels_left.eq(pixels_left - 1)]
                        m.d.sync += row_left.eq(Mux(last_in_row, now.row_pixels, row_left - 1))
                        with m.If(last_pixel):
                            m.d.sync += active.eq(0)

        m.d.comb += self.subset.ready.eq(~active | (go & end))
        taken = self.subset.payload
        with m.If(self.subset.valid & self.subset.ready):
            m.d.sync += [
                now.eq(taken),
                active.eq(1),
                fresh_subset.eq(1),
                group.eq(0),
                dense_pass.eq(0),
                vector.eq(0),
                scale.eq(taken.scale_address),
                row_left.eq(taken.row_pixels),
                pixels_left.eq(taken.pixels),
                address.eq(taken.address),
            ]

        control = self.control
        # With one WRF word the operand registers hold the weights: the word is free once the first vector has gone
        # through.
        frees_entries = fresh_subset if config.wrf_depth == 1 else end
        m.d.comb += [
            control.valid.eq(self.issue),
            control.psum_address.eq(group),
            control.scale_address.eq(scale),
            control.first.eq((vector == 0) & (dense_pass == 0)),
            control.last.eq(last_vector & last_pass),
            control.end.eq(end),
            control.accumulate.eq(now.accumulate),
            control.final.eq(now.final),
            control.raw.eq(now.raw),
            control.relu.eq(now.relu),
            control.high.eq(now.high),
            control.entries_freed.eq(Mux(frees_entries, now.entries, 0)),
            control.scales_freed.eq(Mux(end, now.scales, 0)),
        ]
        return m
