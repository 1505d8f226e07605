"""Subset splitter: takes the headers out of the weight stream and tells every engine about the subset that follows."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from ..bus.axi import request_layout
from .command import command_layout
from .operations import assign, subset_header_layout, weight_op_layout
from .window_loader import window_subset_layout

__all__ = ["SubsetSplitter"]

#: subsets that may be announced before window loader and storer get to them: one runs, one is loaded, one loads.
_AHEAD = 4


class SubsetSplitter(wiring.Component):
    """The weight stream of an operation is, for each subset, a header and the words that the core's loader takes for
    it. The header becomes the core's command, the window that the ifmap loader walks, and, for the last subset of its
    output channels, a block of the ofmap storer.

    Latency: the command is offered in the cycle after the last header word; a header is taken while the core loads
    nothing, so also while a loaded subset waits for the array.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.

    Members
    -------
    op : In(stream of weight_op_layout). Its weights are asked for at once; two may wait, that whose subsets are coming
        among them.
    request : Out(stream of request_layout), ``request_layer`` : Out(16). To the bus.
    words : In(stream of the bus width). ``loading`` : In(1). The core takes the words of a subset.
    command, weights : Out(streams). To the core.
    subset : Out(stream of window_subset_layout). To the window loader.
    blocks : Out(stream). A of each subset that ends its output channels, to the ofmap storer.
    """

    module_name = "subset_splitter"

    def __init__(self, config):
        self.config = config
        array = config.array
        self.blocks_width = dict(array.command_fields)["out_channel_repeat"]
        super().__init__(
            {
                "op": In(stream.Signature(weight_op_layout(config))),
                "request": Out(stream.Signature(request_layout())),
                "request_layer": Out(16),
                "words": In(stream.Signature(array.stream_width)),
                "loading": In(1),
                "command": Out(stream.Signature(command_layout(array))),
                "weights": Out(stream.Signature(array.stream_width)),
                "subset": Out(stream.Signature(window_subset_layout(config))),
                "blocks": Out(stream.Signature(self.blocks_width)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        layout = subset_header_layout(config)
        count = config.subset_words
        words = [Signal(config.array.stream_width, name=f"header_{index}", reset_less=True) for index in range(count)]
        taken = Signal(range(count + 1))
        header = Signal(layout)
        complete, accepted = Signal(), Signal()
        m.d.comb += [header.as_value().eq(Cat(*words)), complete.eq(taken == count)]

        m.submodules.subsets = subsets = SyncFIFO(width=self.subset.payload.shape().size, depth=_AHEAD)
        m.submodules.announced = blocks = SyncFIFO(width=self.blocks_width, depth=_AHEAD)
        window = Signal(self.subset.payload.shape())
        m.d.comb += [
            *assign(window, header),
            subsets.w_data.eq(window),
            self.subset.valid.eq(subsets.r_rdy),
            self.subset.payload.eq(subsets.r_data),
            subsets.r_en.eq(self.subset.ready),
            blocks.w_data.eq(header.out_channel_repeat),
            self.blocks.valid.eq(blocks.r_rdy),
            self.blocks.payload.eq(blocks.r_data),
            blocks.r_en.eq(self.blocks.ready),
        ]

        m.submodules.ops = ops = SyncFIFO(width=self.op.payload.shape().size, depth=2)
        op = Signal(self.op.payload.shape())
        m.d.comb += [
            ops.w_data.eq(self.op.payload),
            ops.w_en.eq(self.op.valid & self.request.ready),
            self.op.ready.eq(ops.w_rdy & self.request.ready),
            self.request.valid.eq(self.op.valid & ops.w_rdy),
            self.request.payload.address.eq(self.op.payload.weights_address),
            self.request.payload.beats.eq(self.op.payload.weight_words),
            self.request_layer.eq(self.op.payload.layer),
            op.eq(ops.r_data),
            ops.r_en.eq(accepted & header.last),
            *assign(
                self.command.payload,
                header,
                row_pixels=op.ofmap_columns,
                pixels=op.pixels,
                relu=op.relu,
                high=op.high,
            ),
            self.command.valid.eq(complete & ops.r_rdy & subsets.w_rdy & blocks.w_rdy),
            accepted.eq(self.command.valid & self.command.ready),
            subsets.w_en.eq(accepted),
            blocks.w_en.eq(accepted & (header.final | header.raw)),
        ]

        m.d.comb += self.weights.payload.eq(self.words.payload)
        with m.If(self.loading):
            m.d.comb += [self.weights.valid.eq(self.words.valid), self.words.ready.eq(self.weights.ready)]
        with m.Else():
            m.d.comb += self.words.ready.eq(~complete)
            with m.If(self.words.valid & ~complete):
                m.d.sync += taken.eq(taken + 1)
                for index, word in enumerate(words):
                    with m.If(taken == index):
                        m.d.sync += word.eq(self.words.payload)
        with m.If(accepted):
            m.d.sync += taken.eq(0)
        return m
