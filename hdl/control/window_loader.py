"""Window loader: walks the windows of convolutions and pools over L1 and pads them."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..memory.ring import Ring
from ..streams import forward
from ..verilog import place

__all__ = ["WindowLoader", "WindowWalker", "window_op_layout", "window_subset_layout", "window_vector_layout"]

#: bits of a coordinate in the ifmap, with its sign: up to a kernel beyond 4096 pixels either side.
_COORDINATE = 14


def window_op_layout(config):
    """An operation of the window loader; ``vector`` tells a vector operation from a convolution, ``groups`` is
    ``ofmap_groups``, the others are fields of the descriptor."""
    widths = dict(config.compute_fields)
    names = ("ifmap_address", "ifmap_plane", "ifmap_rows", "ifmap_columns", "pad_top", "pad_left", "stride_y")
    names += ("stride_x", "ofmap_rows", "ofmap_columns")
    fields = {"vector": 1} | {name: widths[name] for name in names} | {"groups": widths["ofmap_groups"]}
    return data.StructLayout(fields | {name: widths[name] for name in ("kernel_rows", "kernel_columns", "maximum")})


def window_subset_layout(config):
    """The window of a weight subset: those fields of its header that the loader walks by."""
    names = ("in_group", "in_groups", "tap_row", "tap_column", "tap_rows", "tap_columns", "last")
    widths = dict(config.subset_fields)
    return data.StructLayout({name: widths[name] for name in names})


def window_vector_layout(config):
    """A vector of a pool's window; ``first`` and ``last`` of the window."""
    return data.StructLayout({"values": data.ArrayLayout(signed(8), config.vector_bytes), "first": 1, "last": 1})


class WindowWalker(wiring.Component):
    """Addresses of the vectors of each window, in order, by adders: no vector takes more than a cycle.

    Loops, outermost first. Subset of a convolution: ofmap row, pixel, tap column, tap row, group of input channels; a
    pixel that is not the first of its row takes only those tap columns that the pixel before it did not have. Vector
    operation: group, ofmap row, pixel, kernel column, kernel row.

    One operation and one subset wait in registers, from where a walk starts; there are the multipliers.

    Latency: a walk (of a subset, or of a vector operation) whose operation and subset were taken in cycle t at the
    latest starts in cycle max(t + 1, that of the last ``advance`` of the walk before); ``valid`` rises in the cycle
    after the start, so that walks follow each other without a gap. A subset, and an operation in its last walk, make
    room for the next one in the cycle of the start.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.

    Members
    -------
    op : In(stream of window_op_layout). ``subset`` : In(stream of window_subset_layout).
    valid : Out(1). There is a vector; ``advance`` : In(1), only while ``valid``. On to the next.
    address : Out(vector_address_width). ``inside`` : Out(1). It lies in the ifmap, not in the padding.
    vector, maximum : Out(1). Of the operation; ``maximum`` is low for convolutions.
    first, last : Out(1). Of the window of a vector operation.
    """

    module_name = "window_walker"
    latency = 2

    def __init__(self, config):
        self.config = config
        super().__init__(
            {
                "op": In(stream.Signature(window_op_layout(config))),
                "subset": In(stream.Signature(window_subset_layout(config))),
                "valid": Out(1),
                "advance": In(1),
                "address": Out(config.vector_address_width),
                "inside": Out(1),
                "vector": Out(1),
                "maximum": Out(1),
                "first": Out(1),
                "last": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        width = self.config.vector_address_width  # addresses are modulo 2**width

        # What waits.
        op, subset = Signal(self.op.payload.shape()), Signal(self.subset.payload.shape())
        op_waits, subset_waits = Signal(), Signal()
        start, ends = Signal(), Signal()
        m.d.comb += [
            start.eq(op_waits & (op.vector | subset_waits) & (~self.valid | ends)),
            self.op.ready.eq(~op_waits | (start & (op.vector | subset.last))),
            self.subset.ready.eq(~subset_waits | (start & ~op.vector)),
        ]
        with m.If(self.op.ready):
            m.d.sync += op_waits.eq(self.op.valid)
            with m.If(self.op.valid):
                m.d.sync += op.eq(self.op.payload)
        with m.If(self.subset.ready):
            m.d.sync += subset_waits.eq(self.subset.valid)
            with m.If(self.subset.valid):
                m.d.sync += subset.eq(self.subset.payload)

        # The walk: sizes and steps.
        now = Signal(
            data.StructLayout(
                {
                    "vector": 1,
                    "maximum": 1,
                    "rows": len(op.ifmap_rows),
                    "columns": len(op.ifmap_columns),
                    "plane": width,
                    "row_step": width,
                    "stride_y": len(op.stride_y),
                    "pixel_step": signed(len(op.kernel_columns) + 2),
                    "x": signed(_COORDINATE),
                    "y": signed(_COORDINATE),
                    "groups": len(subset.in_groups),
                    "tap_rows": len(op.kernel_rows),
                    "tap_columns": len(op.kernel_columns),
                    "fresh_columns": len(op.kernel_columns),
                    "pixels": len(op.ofmap_columns),
                    "pixel_rows": len(op.ofmap_rows),
                }
            )
        )
        # Address of the vector, and of the first one of its tap, tap column, ofmap row and group.
        address, tap, column, row, group = (
            Signal(width, name=f"{name}_address") for name in ("vector", "tap", "column", "row", "group")
        )
        x, y, row_y = (Signal(signed(_COORDINATE), name=name) for name in ("x", "y", "row_y"))
        groups_left, planes_left = Signal(len(subset.in_groups)), Signal(len(op.groups))
        taps_left, columns_left = Signal(len(op.kernel_rows)), Signal(len(op.kernel_columns))
        pixels_left, rows_left = Signal(len(op.ofmap_columns)), Signal(len(op.ofmap_rows))
        last_group, last_tap, last_column, last_pixel, last_row = (
            Signal(name=f"last_{name}") for name in ("group", "tap", "column", "pixel", "row")
        )
        m.d.comb += [
            last_group.eq(groups_left == 1),
            last_tap.eq(taps_left == 1),
            last_column.eq(columns_left == 1),
            last_pixel.eq(pixels_left == 1),
            last_row.eq(rows_left == 1),
            self.last.eq(last_group & last_tap & last_column),
            ends.eq(self.advance & self.last & last_pixel & last_row & (planes_left == 1)),
            self.address.eq(address),
            self.inside.eq((y.as_unsigned() < now.rows) & (x.as_unsigned() < now.columns)),
            self.vector.eq(now.vector),
            self.maximum.eq(now.maximum),
        ]

        def begin(value, *levels):
            return [level.eq(value) for level in (address, *levels)]

        next_tap, next_column, next_row, next_group = (
            Signal(width, name=f"next_{name}") for name in ("tap", "column", "row", "group")
        )
        step = Signal(now.pixel_step.shape())
        m.d.comb += [
            step.eq(Mux(last_column, now.pixel_step, 1)),
            next_tap.eq(tap + now.columns),
            next_column.eq(column + step),
            next_row.eq(row + now.row_step),
            next_group.eq(group + now.plane),
        ]
        with m.If(self.advance):
            m.d.sync += [self.first.eq(self.last), groups_left.eq(groups_left - 1), address.eq(address + now.plane)]
            with m.If(last_group):
                m.d.sync += [groups_left.eq(now.groups), taps_left.eq(taps_left - 1), y.eq(y + 1)]
                m.d.sync += begin(next_tap, tap)
                with m.If(last_tap):
                    m.d.sync += [taps_left.eq(now.tap_rows), columns_left.eq(columns_left - 1)]
                    m.d.sync += [y.eq(row_y), x.eq(x + step)]
                    m.d.sync += begin(next_column, tap, column)
                    with m.If(last_column):
                        m.d.sync += [columns_left.eq(now.fresh_columns), pixels_left.eq(pixels_left - 1)]
                        with m.If(last_pixel):
                            m.d.sync += [columns_left.eq(now.tap_columns), pixels_left.eq(now.pixels), x.eq(now.x)]
                            m.d.sync += [rows_left.eq(rows_left - 1), y.eq(row_y + now.stride_y)]
                            m.d.sync += row_y.eq(row_y + now.stride_y)
                            m.d.sync += begin(next_row, tap, column, row)
                            with m.If(last_row):
                                m.d.sync += [rows_left.eq(now.pixel_rows), y.eq(now.y), row_y.eq(now.y)]
                                m.d.sync += planes_left.eq(planes_left - 1)
                                m.d.sync += begin(next_group, tap, column, row, group)
        with m.If(ends):
            m.d.sync += self.valid.eq(0)

        # The start: corner of the first window, and what a walk keeps.
        corner_x, corner_y = Signal(signed(_COORDINATE)), Signal(signed(_COORDINATE))
        plane, tap_columns, tap_rows = Signal(12), Signal(len(op.kernel_columns)), Signal(len(op.kernel_rows))
        origin, row_step = Signal(width), Signal(width)
        shares, skipped = Signal(), Signal(signed(len(op.kernel_columns) + 2))
        groups = Signal(len(subset.in_groups), init=1)
        m.d.comb += [
            tap_columns.eq(Mux(op.vector, op.kernel_columns, subset.tap_columns)),
            tap_rows.eq(Mux(op.vector, op.kernel_rows, subset.tap_rows)),
            groups.eq(Mux(op.vector, 1, subset.in_groups)),
            plane.eq(Mux(op.vector, 0, subset.in_group)),
            corner_x.eq(Mux(op.vector, 0, subset.tap_column) - op.pad_left),
            corner_y.eq(Mux(op.vector, 0, subset.tap_row) - op.pad_top),
            origin.eq(op.ifmap_address + plane * op.ifmap_plane + corner_y * op.ifmap_columns + corner_x),
            row_step.eq(op.stride_y * op.ifmap_columns),
            shares.eq(~op.vector & (tap_columns > op.stride_x)),
            skipped.eq(op.stride_x - tap_columns + 1),
        ]
        with m.If(start):
            m.d.sync += [
                self.valid.eq(1),
                self.first.eq(1),
                now.vector.eq(op.vector),
                now.maximum.eq(op.maximum & op.vector),
                now.rows.eq(op.ifmap_rows),
                now.columns.eq(op.ifmap_columns),
                now.plane.eq(op.ifmap_plane),
                now.row_step.eq(row_step),
                now.stride_y.eq(op.stride_y),
                now.pixel_step.eq(Mux(shares, 1, skipped)),
                now.x.eq(corner_x),
                now.y.eq(corner_y),
                now.groups.eq(groups),
                now.tap_rows.eq(tap_rows),
                now.tap_columns.eq(tap_columns),
                now.fresh_columns.eq(Mux(shares, op.stride_x, tap_columns)),
                now.pixels.eq(op.ofmap_columns),
                now.pixel_rows.eq(op.ofmap_rows),
                *begin(origin, tap, column, row, group),
                x.eq(corner_x),
                y.eq(corner_y),
                row_y.eq(corner_y),
                groups_left.eq(groups),
                planes_left.eq(Mux(op.vector, op.groups, 1)),
                taps_left.eq(tap_rows),
                columns_left.eq(tap_columns),
                pixels_left.eq(op.ofmap_columns),
                rows_left.eq(op.ofmap_rows),
            ]
        return m


class WindowLoader(wiring.Component):
    """L1 to activation vectors: to the core for a convolution (in the order of ``golden.stream.gather_ifmap``), to the
    ofmap storer for a vector operation. What lies outside the ifmap is 0, or -128 for ``maximum``, and is not read.

    Latency: for a walk (of a subset, or of a vector operation) whose operation and subset were taken in cycle t at the
    latest, the first vector is read in cycle max(t + 2, last + 1), where ``last`` is the cycle in which the last vector
    of the walk before was read (or would have been, in the padding). Each further vector is read in the next cycle; but
    in a cycle in which ``depth`` = 3 vectors are read and not yet taken, none is. A vector is offered 2 cycles after it
    was read, or when the one before it has been taken: 4 cycles after t at the earliest, then one a cycle, across rows,
    subsets and operations. With its start, the cycle before its first read, a walk makes room for the next subset, and
    the last walk of an operation for the next operation; one of each waits here.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.

    Members
    -------
    op : In(stream of window_op_layout), offered when the operation may begin.
    subset : In(stream of window_subset_layout), of convolutions.
    ifmap : Out(stream of ``rows`` signed(8)). To the core.
    vectors : Out(stream of window_vector_layout). To the storer.
    read_valid : Out(1), read_address : Out(vector_address_width), read_data : In(vector_bytes*8). L1, always granted.
    """

    module_name = "window_loader"
    latency = 4
    #: vectors that are read and not yet taken.
    depth = 3

    def __init__(self, config):
        self.config = config
        super().__init__(
            {
                "op": In(stream.Signature(window_op_layout(config))),
                "subset": In(stream.Signature(window_subset_layout(config))),
                "ifmap": Out(stream.Signature(data.ArrayLayout(signed(8), config.array.rows))),
                "vectors": Out(stream.Signature(window_vector_layout(config))),
                "read_valid": Out(1),
                "read_address": Out(config.vector_address_width),
                "read_data": In(config.vector_bytes * 8),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        layout = data.StructLayout({"to": window_vector_layout(config), "vector": 1})
        walker = place(m, platform, "walker", WindowWalker(config))
        ring = place(m, platform, "ring", Ring(self.depth, layout.size, config.array.style))
        forward(m, self.op, walker.op)
        forward(m, self.subset, walker.subset)

        reserved = Signal(range(self.depth + 1))
        arriving, inside, maximum = Signal(), Signal(), Signal()
        entry, head = Signal(layout), Signal(layout)
        leaves = Signal()
        m.d.comb += [
            walker.advance.eq(walker.valid & (reserved != self.depth)),
            self.read_valid.eq(walker.advance & walker.inside),
            self.read_address.eq(walker.address),
        ]
        tags = Cat(entry.to.first, entry.to.last, entry.vector)
        tags_read = Signal(3)
        m.d.sync += [
            reserved.eq(reserved + walker.advance - leaves),
            arriving.eq(walker.advance),
            inside.eq(walker.inside),
            maximum.eq(walker.maximum),
            tags_read.eq(Cat(walker.first, walker.last, walker.vector)),
        ]
        padding = Cat(*[maximum << 7] * config.vector_bytes)
        m.d.comb += [
            tags.eq(tags_read),
            entry.to.values.as_value().eq(Mux(inside, self.read_data, padding)),
            ring.source.valid.eq(arriving),
            ring.source.payload.eq(entry),
            head.as_value().eq(ring.sink.payload),
            self.ifmap.valid.eq(ring.sink.valid & ~head.vector),
            self.ifmap.payload.eq(head.to.values),
            self.vectors.valid.eq(ring.sink.valid & head.vector),
            self.vectors.payload.eq(head.to),
            ring.sink.ready.eq(Mux(head.vector, self.vectors.ready, self.ifmap.ready)),
            leaves.eq(ring.sink.valid & ring.sink.ready),
        ]
        return m
