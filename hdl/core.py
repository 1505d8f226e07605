"""The core: weight loader, sequencer, array and requantisation behind four streams."""

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .array.activation_file import ActivationFile
from .array.partial_sum_file import PartialSumFile
from .array.systolic_array import SystolicArray
from .config import address_width
from .control.command import command_layout
from .control.requantiser import Requantiser, ScaleMemory
from .control.sequencer import Sequencer, control_layout
from .control.weight_loader import WeightLoader
from .delay import Delay
from .streams import forward
from .verilog import place

__all__ = ["BLOCKS", "Core", "ofmap_layout"]

#: instance path below the core -> block of the area report (see :class:`~hdl.verilog.Design`).
BLOCKS = {
    "array": "array",
    "loader": "decoding and loading",
    "loader.crf": "codebook",
    "prf": "prf/arf",
    "arf": "prf/arf",
    "scale_memory": "requantisation",
    "requantiser_*": "requantisation",
    "sequencer": "control",
    "control_delay": "control",
}


def ofmap_layout(config):
    """An ofmap vector: int8 ``values`` when ``final``, and the partial sums they came from, which are the result when
    ``raw``."""
    return data.StructLayout(
        {
            "values": data.ArrayLayout(signed(8), config.columns),
            "psums": data.ArrayLayout(signed(config.psum_width), config.columns),
            "final": 1,
            "raw": 1,
        }
    )


class Core(wiring.Component):
    """Accelerator core. For each command it loads a weight subset while the subset before it computes, then streams
    pixels through it.

    Latency: an activation vector that is issued gives its ofmap vector ``latency`` cycles later, when it is the last of
    its pixel. Cycles of whole layers: golden.schedule.

    Parameters
    ----------
    config : :class:`~hdl.config.ArrayConfig`.

    Members
    -------
    command : In(stream of command_layout). One for each weight subset.
    weights : In(stream of 64 bits). The packed image, in the order of the commands.
    ifmap : In(stream of ``rows`` signed(8)). Activation vectors, in the order in which pixels need them first.
    psum_in : In(stream of ``columns`` signed(psum_width)). Partial sums of earlier subsets, for commands that
        ``accumulate``.
    ofmap : Out(stream of ofmap_layout). A vectors for each pixel.
    loading : Out(1). The weight stream is at the words of a command, from the cycle after it was taken to the last word
        it needs.
    computing : Out(1). The array works in this cycle. ``weight_stall`` : Out(1). It does not, because weights are still
        being loaded. ``activation_stall`` : Out(1). It does not, because an activation vector is missing.
    gated : Out. Multiplications that a zero saved (with ``gating_counter`` only).
    busy : Out(1). A command is under way, or an ofmap vector has not been taken.
    """

    module_name = "mvq_core"

    def __init__(self, config):
        self.config = config
        gated = {"gated": Out(address_width(config.multipliers + 1))} if config.gating_counter else {}
        super().__init__(
            {
                **gated,
                "command": In(stream.Signature(command_layout(config))),
                "weights": In(stream.Signature(config.stream_width)),
                "ifmap": In(stream.Signature(data.ArrayLayout(signed(8), config.rows))),
                "psum_in": In(stream.Signature(data.ArrayLayout(signed(config.psum_width), config.columns))),
                "ofmap": Out(stream.Signature(ofmap_layout(config))),
                "loading": Out(1),
                "busy": Out(1),
                "computing": Out(1),
                "weight_stall": Out(1),
                "activation_stall": Out(1),
            }
        )

    @property
    def latency(self):
        """Cycles from the issue of a pixel's last vector to its ofmap vector."""
        return self.config.latency + 1

    def elaborate(self, platform):
        m = Module()
        config = self.config
        loader = place(m, platform, "loader", WeightLoader(config))
        sequencer = place(m, platform, "sequencer", Sequencer(config))
        arf = place(m, platform, "arf", ActivationFile(config))
        array = place(m, platform, "array", SystolicArray(config))
        prf = place(m, platform, "prf", PartialSumFile(config))
        scales = place(m, platform, "scale_memory", ScaleMemory(config))
        layout = control_layout(config)
        delay = place(m, platform, "control_delay", Delay(layout.size, config.latency, reset=True))
        bottom = Signal(layout)  # control of the column sums that are at the bottom of the array now

        # The whole pipeline stands still while an ofmap vector waits, or a partial sum to accumulate is missing.
        step, blocked, wants_psum = Signal(), Signal(), Signal()
        out_valid, out_final, out_raw, out_relu, out_high = Signal(), Signal(), Signal(), Signal(), Signal(7)
        out_psums = [Signal(config.psum_width, name=f"out_psum_{i}", reset_less=True) for i in range(config.columns)]
        m.d.comb += [
            blocked.eq(out_valid & ~self.ofmap.ready),
            wants_psum.eq(bottom.valid & bottom.first & bottom.accumulate),
            step.eq(~blocked & (~wants_psum | self.psum_in.valid)),
            self.psum_in.ready.eq(wants_psum & ~blocked),
        ]

        # Loading.
        forward(m, self.command, loader.command)
        forward(m, self.weights, loader.words)
        forward(m, loader.subset, sequencer.subset)
        m.d.comb += [
            array.write.eq(loader.write),
            array.write_groups.eq(loader.write_groups),
            array.write_row.eq(loader.write_row),
            array.write_address.eq(loader.write_address),
            *(to.eq(value) for to, value in zip(array.weights, loader.weights, strict=True)),
            scales.write.eq(loader.scale_write),
            scales.write_address.eq(loader.scale_address),
            scales.write_data.eq(loader.scale_data),
        ]
        if config.tile == "sparse":
            m.d.comb += [to.eq(value) for to, value in zip(array.offsets, loader.offsets, strict=True)]

        # Issue.
        forward(m, self.ifmap, arf.ifmap)
        m.d.comb += [
            arf.advance.eq(sequencer.advance),
            arf.free.eq(sequencer.free),
            arf.rewind.eq(sequencer.rewind),
            sequencer.available.eq(arf.available),
            sequencer.step.eq(step),
            array.step.eq(step),
            array.valid.eq(sequencer.issue),
            array.swap.eq(sequencer.issue & sequencer.swap),
            array.address.eq(sequencer.address),
            *(to.eq(value) for to, value in zip(array.activations, arf.activations, strict=True)),
            delay.step.eq(step),
            delay.value_in.eq(sequencer.control),
            bottom.eq(delay.value_out),
        ]

        # Accumulation.
        done = Signal()
        m.d.comb += [
            done.eq(bottom.valid & step),
            prf.step.eq(step),
            prf.valid.eq(bottom.valid),
            prf.address.eq(bottom.psum_address),
            prf.first.eq(bottom.first),
            *(to.eq(value) for to, value in zip(prf.sums, array.sums, strict=True)),
            *(
                to.eq(self.psum_in.payload[i] & bottom.accumulate.replicate(config.psum_width))
                for i, to in enumerate(prf.initial)
            ),
            loader.entries_freed.eq(bottom.entries_freed & done.replicate(len(bottom.entries_freed))),
            loader.scales_freed.eq(bottom.scales_freed & done.replicate(len(bottom.scales_freed))),
        ]

        # Output.
        m.d.comb += [scales.step.eq(step), scales.address.eq(bottom.scale_address)]
        with m.If(self.ofmap.ready):
            m.d.sync += out_valid.eq(0)
        with m.If(step):
            m.d.sync += out_valid.eq(bottom.valid & bottom.last)
            with m.If(bottom.valid & bottom.last):
                m.d.sync += [psum.eq(total) for psum, total in zip(out_psums, prf.totals, strict=True)]
                m.d.sync += [out_final.eq(bottom.final), out_raw.eq(bottom.raw)]
                m.d.sync += [out_relu.eq(bottom.relu), out_high.eq(bottom.high)]
        payload = self.ofmap.payload
        for column in range(config.columns):
            requantiser = place(m, platform, f"requantiser_{column}", Requantiser(config.psum_width, config.style))
            m.d.comb += [
                requantiser.psum.eq(out_psums[column]),
                requantiser.scale.eq(scales.scales.word_select(column, 32)),
                requantiser.relu.eq(out_relu),
                requantiser.high.eq(out_high),
                payload.values[column].eq(requantiser.value),
                payload.psums[column].eq(out_psums[column]),
            ]
        m.d.comb += [self.ofmap.valid.eq(out_valid), payload.final.eq(out_final), payload.raw.eq(out_raw)]

        under_way = Signal(3)  # loading, loaded, computing, draining
        started = Signal()
        m.d.comb += started.eq(self.command.valid & self.command.ready)
        m.d.sync += under_way.eq(under_way + started - (done & bottom.end))
        m.d.comb += [
            self.computing.eq(sequencer.issue & step),
            self.weight_stall.eq(sequencer.subset.ready & ~sequencer.issue & loader.loading),
            self.activation_stall.eq(sequencer.starved),
        ]
        if config.gating_counter:
            m.d.comb += self.gated.eq(array.gated)
        m.d.comb += [self.loading.eq(loader.loading), self.busy.eq((under_way != 0) | out_valid)]
        return m
