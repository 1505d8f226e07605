"""Ofmap storer: the core's results, and pools and sums of tensors, into L1."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..core import ofmap_layout
from ..memory.ring import Ring
from ..streams import forward
from ..verilog import place
from .rescaler import Rescaler
from .window_loader import window_vector_layout

__all__ = ["OfmapStorer", "OfmapWalker", "storer_op_layout", "storer_settings_layout"]

#: what the lanes need to know of an operation.
_SETTINGS = ("vector", "raw", "last_columns", "rescale", "residual", "scale", "residual_scale")
_SETTINGS += ("rescale_relu", "rescale_high", "maximum")


def storer_op_layout(config):
    """An operation of the ofmap storer; ``vector`` tells a vector operation from a convolution, the others are fields
    of the descriptor."""
    widths = dict(config.compute_fields) | {"vector": 1}
    names = ("vector", "raw", "pixels", "ofmap_address", "ofmap_plane", "ofmap_groups", "last_columns", "rescale")
    names += ("residual", "residual_address", "residual_plane", "scale", "residual_scale", "rescale_relu")
    return data.StructLayout({name: widths[name] for name in (*names, "rescale_high", "maximum")})


def storer_settings_layout(config):
    """Fields of an operation that its vectors are computed with."""
    members = storer_op_layout(config).members
    return data.StructLayout({name: members[name] for name in _SETTINGS})


class OfmapWalker(wiring.Component):
    """Addresses of the result vectors of an operation, in the order in which they come, and of their residuals.

    Loops, outermost first. Convolution: blocks of A groups of output channels, pixel, group of the block. Vector
    operation: group, pixel.

    Latency: the first vector of an operation is there in the cycle after it was taken. The next operation is taken in
    the cycle of the last ``advance`` at the earliest, and not before ``settings`` are.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.

    Members
    -------
    op : In(stream of storer_op_layout).
    blocks : In(stream). A of each block of a convolution, taken with its last vector.
    settings : Out(stream of storer_settings_layout). Those of the operation under way, once.
    valid : Out(1). There is a vector; ``advance`` : In(1), only while ``valid``. On to the next.
    address, residual_address : Out(vector_address_width). ``residual`` : Out(1). It has one.
    last_group : Out(1). It belongs to the last group. ``end`` : Out(1). It is the operation's last.
    """

    module_name = "ofmap_walker"
    latency = 1

    def __init__(self, config):
        self.config = config
        super().__init__(
            {
                "op": In(stream.Signature(storer_op_layout(config))),
                "blocks": In(stream.Signature(dict(config.array.command_fields)["out_channel_repeat"])),
                "settings": Out(stream.Signature(storer_settings_layout(config))),
                "valid": Out(1),
                "advance": In(1),
                "address": Out(config.vector_address_width),
                "residual": Out(1),
                "residual_address": Out(config.vector_address_width),
                "last_group": Out(1),
                "end": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        op = Signal(self.op.payload.shape())
        active, settings_wait = Signal(), Signal()
        taken, fresh = self.op.payload, Signal()
        m.d.comb += [
            self.op.ready.eq((~active | (self.advance & self.end)) & (~settings_wait | self.settings.ready)),
            fresh.eq(self.op.valid & self.op.ready),
            self.settings.valid.eq(settings_wait),
            *(getattr(self.settings.payload, name).eq(getattr(op, name)) for name in _SETTINGS),
            self.valid.eq(active & (op.vector | self.blocks.valid)),
            self.residual.eq(op.residual),
        ]

        group = Signal.like(self.blocks.payload)  # of the block
        pixels_left = Signal(len(op.pixels))
        groups_left, block_groups_left = Signal(len(op.ofmap_groups)), Signal(len(op.ofmap_groups))
        first_pixel, last_pixel, last_of_pixel = Signal(), Signal(), Signal()
        m.d.comb += [
            last_of_pixel.eq(op.vector | (group + 1 == self.blocks.payload)),
            last_pixel.eq(pixels_left == 1),
            self.last_group.eq(groups_left == 1),
            self.end.eq(last_of_pixel & last_pixel & self.last_group),
            self.blocks.ready.eq(self.advance & last_of_pixel & last_pixel & ~op.vector),
        ]
        with m.If(self.settings.ready):
            m.d.sync += settings_wait.eq(0)
        with m.If(self.advance):
            m.d.sync += [group.eq(group + 1), groups_left.eq(groups_left - 1)]
            with m.If(last_of_pixel):
                m.d.sync += [group.eq(0), groups_left.eq(block_groups_left)]
                m.d.sync += [pixels_left.eq(pixels_left - 1), first_pixel.eq(0)]
                with m.If(last_pixel):
                    m.d.sync += [pixels_left.eq(op.pixels), first_pixel.eq(1)]
                    m.d.sync += [groups_left.eq(groups_left - 1), block_groups_left.eq(groups_left - 1)]
            with m.If(self.end):
                m.d.sync += active.eq(0)
        with m.If(fresh):
            m.d.sync += [
                op.eq(taken),
                active.eq(1),
                settings_wait.eq(1),
                group.eq(0),
                pixels_left.eq(taken.pixels),
                first_pixel.eq(1),
                groups_left.eq(taken.ofmap_groups),
                block_groups_left.eq(taken.ofmap_groups),
            ]

        def follow(name, base, plane, step):
            """Address in a tensor at ``base`` with planes ``plane`` apart and pixels ``step`` apart."""
            width = self.config.vector_address_width
            address, pixel, block = (Signal(width, name=f"{name}_{part}") for part in ("address", "pixel", "block"))
            next_plane, next_pixel = Signal(width, name=f"{name}_next_plane"), Signal(width, name=f"{name}_next_pixel")
            m.d.comb += [next_plane.eq(address + plane), next_pixel.eq(pixel + step)]
            with m.If(self.advance):
                m.d.sync += address.eq(next_plane)
                with m.If(last_of_pixel):
                    m.d.sync += [address.eq(next_pixel), pixel.eq(next_pixel)]
                    with m.If(first_pixel):
                        m.d.sync += block.eq(next_plane)  # where the next block begins
                    with m.If(last_pixel):
                        following = Mux(first_pixel, next_plane, block)
                        m.d.sync += [address.eq(following), pixel.eq(following)]
            with m.If(fresh):
                m.d.sync += [address.eq(base), pixel.eq(base)]
            return address

        m.d.comb += [
            self.address.eq(follow("ofmap", taken.ofmap_address, op.ofmap_plane, Mux(op.raw, 4, 1))),
            self.residual_address.eq(follow("residual", taken.residual_address, op.residual_plane, 1)),
        ]
        return m


class OfmapStorer(wiring.Component):
    """Result vectors to L1: those of the core (rescaled, with a residual added, or as int32), or of windows of vectors
    (pools, sums, copies), which one lane for each column computes (:class:`~hdl.control.rescaler.Rescaler`).

    Columns from ``last_columns`` on in the last group are written as zero.

    Latency: a vector that is taken in cycle t is written in cycle t + 2; of a window, only the last one causes a write.
    A raw vector of the core is written in four parts: its first part is used in a cycle t, it is taken in cycle t + 3,
    and written in cycles t + 2 to t + 5. ``done`` is high in the cycle of the operation's last write. In each cycle one
    vector is taken, or one part used, if it is offered and

    * the operation is current: from 2 cycles after it was taken on, or from the cycle after the last vector of the
      operation before was taken, whichever is later.
    * its place is known: it was found in an earlier cycle. Places are found in order, one in a cycle, from the cycle
      after the operation was taken on, unless the block is not offered, or ``ahead`` = 3 places are known whose vectors
      have not been taken.
    * its residual has come, if it has one (in a window, the last vector): it was read 2 cycles before or earlier. It is
      read in the cycle in which its place is found, which waits until the read is granted.

    So an operation's first vector is taken 2 cycles after it at the earliest, 3 with a residual. The next operation is
    taken in the cycle in which the last place of this one is found, or, if that is later, in the cycle before this one
    becomes current. So there is no gap between operations that are offered early, save one cycle after a residual's
    operation of a single vector.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.

    Members
    -------
    op : In(stream of storer_op_layout), offered when the operation may begin.
    blocks : In(stream). A of each final or raw subset, in order; taken when the walk leaves the block.
    core : In(stream of ofmap_layout). Only vectors that are final or raw; the operation says which.
    vectors : In(stream of window_vector_layout).
    read_valid : Out(1), read_address : Out(vector_address_width), read_ready : In(1), read_data : In(vector_bytes*8).
        Residuals from L1; the data come one cycle after a granted read.
    write_valid : Out(1), write_address : Out(vector_address_width), write_data : Out(vector_bytes*8). L1, always
        granted.
    done : Out(1). The last vector of an operation is being written.
    """

    module_name = "ofmap_storer"
    #: cycles from a vector taken to its write.
    latency = 2
    #: vectors whose place is known, and residuals read, before the vectors come.
    ahead = 3

    def __init__(self, config):
        self.config = config
        address, width = config.vector_address_width, config.vector_bytes * 8
        super().__init__(
            {
                "op": In(stream.Signature(storer_op_layout(config))),
                "blocks": In(stream.Signature(dict(config.array.command_fields)["out_channel_repeat"])),
                "core": In(stream.Signature(ofmap_layout(config.array))),
                "vectors": In(stream.Signature(window_vector_layout(config))),
                "read_valid": Out(1),
                "read_address": Out(address),
                "read_ready": In(1),
                "read_data": In(width),
                "write_valid": Out(1),
                "write_address": Out(address),
                "write_data": Out(width),
                "done": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        count = config.vector_bytes
        walker = place(m, platform, "walker", OfmapWalker(config))
        place_layout = data.StructLayout({"address": config.vector_address_width, "last_group": 1, "end": 1})
        places = place(m, platform, "places", Ring(self.ahead, place_layout.size, config.array.style))
        residuals = place(m, platform, "residuals", Ring(self.ahead, count * 8, config.array.style))
        forward(m, self.op, walker.op)
        forward(m, self.blocks, walker.blocks)

        # Ahead of the vectors: their places and residuals. The residuals need no more room than the places.
        next_place, arriving = Signal(place_layout), Signal()
        m.d.comb += [
            *(getattr(next_place, name).eq(getattr(walker, name)) for name in place_layout.members),
            self.read_valid.eq(walker.valid & walker.residual & places.source.ready),
            self.read_address.eq(walker.residual_address),
            places.source.valid.eq(walker.valid & (~walker.residual | self.read_ready)),
            places.source.payload.eq(next_place),
            walker.advance.eq(places.source.valid & places.source.ready),
            residuals.source.valid.eq(arriving),
            residuals.source.payload.eq(self.read_data),
        ]
        m.d.sync += arriving.eq(walker.advance & walker.residual)

        # The operation whose vectors come now.
        now, active = Signal(storer_settings_layout(config)), Signal()
        head = Signal(place_layout)
        part = Signal(2)  # of a raw vector
        offered, step, ends_window, leaves = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            head.as_value().eq(places.sink.payload),
            offered.eq(Mux(now.vector, self.vectors.valid, self.core.valid)),
            ends_window.eq(~now.vector | self.vectors.payload.last),
            step.eq(active & offered & places.sink.valid & (residuals.sink.valid | ~now.residual | ~ends_window)),
            leaves.eq(step & ends_window & (~now.raw | (part == 3))),
            places.sink.ready.eq(leaves),
            residuals.sink.ready.eq(leaves & now.residual),
            self.core.ready.eq(leaves & ~now.vector),
            self.vectors.ready.eq(step & now.vector),
            walker.settings.ready.eq(~active | (leaves & head.end)),
        ]
        with m.If(walker.settings.ready):
            m.d.sync += [active.eq(walker.settings.valid), now.eq(walker.settings.payload)]
        with m.If(step & now.raw):
            m.d.sync += part.eq(part + 1)

        # What the lanes take.
        psums = Cat(Cat(psum, psum[-1].replicate(32 - len(psum))) for psum in self.core.payload.psums)
        columns, lanes = Signal(count), Signal(count)  # that are not written as zero
        values, residual = Signal(count * 8), Signal(count * 8)
        m.d.comb += [
            *(columns[index].eq(~head.last_group | (index < now.last_columns)) for index in range(count)),
            lanes.eq(columns),
            values.eq(Mux(now.vector, self.vectors.payload.values, self.core.payload.values)),
            residual.eq(residuals.sink.payload & now.residual.replicate(count * 8)),
        ]
        with m.If(now.raw):
            with m.Switch(part):
                for index in range(4):
                    with m.Case(index):
                        m.d.comb += values.eq(psums.word_select(index, count * 8))
                        of_part = columns.word_select(index, count // 4)
                        m.d.comb += lanes.eq(Cat(bit.replicate(4) for bit in of_part))

        # One cycle later the lanes have their sums, two cycles later their results.
        using = Signal(now.shape())
        emit, emit_end, emit_address = Signal(), Signal(), Signal(config.vector_address_width)
        m.d.sync += [
            emit.eq(step & ends_window),
            emit_end.eq(leaves & head.end),
            self.write_valid.eq(emit),
            self.done.eq(emit_end),
        ]
        with m.If(step):
            m.d.sync += [using.eq(now), emit_address.eq(head.address + part)]
        with m.If(emit):
            m.d.sync += self.write_address.eq(emit_address)
        for index in range(count):
            lane = place(m, platform, f"lane_{index}", Rescaler(config.array.style))
            m.d.comb += [
                lane.step.eq(step),
                lane.value.eq(values.word_select(index, 8) & lanes[index].replicate(8)),
                lane.residual.eq(residual.word_select(index, 8) & lanes[index].replicate(8)),
                lane.first.eq(~now.vector | self.vectors.payload.first),
                lane.maximum.eq(now.maximum),
                lane.emit.eq(emit),
                lane.rescale.eq(using.rescale),
                lane.relu.eq(using.rescale_relu),
                lane.high.eq(using.rescale_high),
                lane.factor.as_value().eq(using.scale),
                lane.residual_factor.as_value().eq(using.residual_scale),
                self.write_data.word_select(index, 8).eq(lane.result),
            ]
        return m
