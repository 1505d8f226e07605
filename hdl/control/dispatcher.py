"""Dispatcher: runs the list of descriptors in memory to its end without a host."""

from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import enum, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from ..accelerator_config import OPCODES
from ..bus.axi import request_layout
from .ofmap_storer import storer_op_layout
from .operations import assign, compute_layout, header_layout, transfer_layout, weight_op_layout
from .register_map import ErrorCode
from .window_loader import window_op_layout

__all__ = ["KINDS", "Dispatcher"]

#: kinds of engine whose completed operations are counted, as in a descriptor's ``wait_*`` fields.
KINDS = ("loads", "stores", "computes")
#: operations that wait in front of each engine.
_QUEUE_DEPTH = 2


class _State(enum.Enum, shape=3):
    IDLE = 0
    FETCH = 1
    COLLECT = 2
    CHECK = 3
    DISPATCH = 4
    DRAIN = 5
    ABORT = 6


class Dispatcher(wiring.Component):
    """Fetches descriptors in order, checks each, and queues it for its engines, which run side by side. An operation
    leaves its queue when as many loads, stores and computes have completed as its ``wait_*`` fields say.

    A run ends with the ``end`` descriptor, when all operations before it are complete; with ``stop``, which completes
    what was dispatched; or with an error, a watchdog or ``soft_reset``, which clear all engines at once and then wait
    until the bus has answered what it owes (``draining``). A ``soft_reset`` while draining forgets what the bus owes.

    Latency: a descriptor is offered to its engines ``beats`` + 3 cycles after the bus client has accepted its request
    and brought the first of its beats (512 / bus width of them).

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.

    Members
    -------
    start, stop, soft_reset : In(1). Pulses; ``start`` only while not ``busy`` and not ``draining``.
    program_address, program_length : In(32). First descriptor, and number of descriptors.
    watchdog : In(32). Cycles without ``progress`` : In(1) after which the run fails; 0: never.
    request : Out(stream of request_layout), ``beats`` : In(stream of the bus width). Descriptors from the bus.
    loads, stores : Out(streams of transfer_layout); ``weights``, ``windows``, ``results`` : Out(streams of
        weight_op_layout, window_op_layout, storer_op_layout). Operations, offered when they may begin; those for the
        weight path are offered at once.
    done : In(1) for each of :data:`KINDS`. An operation is complete.
    failed : In(1), ``failed_code``, ``failed_layer``, ``failed_address`` : In. An engine or the bus failed.
    bus_idle : In(1). The bus owes nothing. ``forget_bus`` : Out(1). What it owes will never come.
    busy, draining : Out(1). ``finished``, ``stopped`` : Out(1). Pulses: the run came to its end, or to where it was
        stopped.
    clear : Out(1). Engines and buffers are to be reset.
    error : Out(1). Pulse; ``error_code`` : Out(8), ``error_layer`` : Out(16), ``error_address`` : Out(32).
    window_layer, layer : Out(16). Of the operation of the window loader, and of the ofmap storer.
    """

    module_name = "dispatcher"

    def __init__(self, config):
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "stop": In(1),
                "soft_reset": In(1),
                "program_address": In(32),
                "program_length": In(32),
                "watchdog": In(32),
                "progress": In(1),
                "request": Out(stream.Signature(request_layout())),
                "beats": In(stream.Signature(config.array.stream_width)),
                "loads": Out(stream.Signature(transfer_layout(config))),
                "stores": Out(stream.Signature(transfer_layout(config))),
                "weights": Out(stream.Signature(weight_op_layout(config))),
                "windows": Out(stream.Signature(window_op_layout(config))),
                "results": Out(stream.Signature(storer_op_layout(config))),
                "done": In(1).array(len(KINDS)),
                "failed": In(1),
                "failed_code": In(8),
                "failed_layer": In(16),
                "failed_address": In(32),
                "bus_idle": In(1),
                "forget_bus": Out(1),
                "busy": Out(1),
                "draining": Out(1),
                "finished": Out(1),
                "stopped": Out(1),
                "clear": Out(1),
                "error": Out(1),
                "error_code": Out(8),
                "error_layer": Out(16),
                "error_address": Out(32),
                "window_layer": Out(16),
                "layer": Out(16),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        width, size = config.array.stream_width, config.descriptor_bytes * 8
        state = Signal(_State)
        address, left = Signal(32), Signal(32)
        beat = Signal(range(size // width + 1))
        words = Signal(size)
        stopping = Signal()

        header = Signal(header_layout(config))
        transfer, compute = Signal(transfer_layout(config)), Signal(compute_layout(config))
        m.d.comb += [value.as_value().eq(words) for value in (header, transfer, compute)]
        opcode = {name: Signal(name=f"is_{name}") for name in OPCODES}
        m.d.comb += [line.eq(header.opcode == OPCODES[name]) for name, line in opcode.items()]

        # Completed and dispatched operations of each kind.
        completed = {kind: Signal(8, name=f"{kind}_completed") for kind in KINDS}
        under_way = {kind: Signal(8, name=f"{kind}_under_way") for kind in KINDS}
        dispatched = {kind: Signal(name=f"{kind}_dispatched") for kind in KINDS}
        for kind, done in zip(KINDS, self.done, strict=True):
            m.d.sync += [
                completed[kind].eq(completed[kind] + done),
                under_way[kind].eq(under_way[kind] + dispatched[kind] - done),
            ]

        def may_begin(operation):
            """The ``wait_*`` fields of ``operation`` are fulfilled."""
            ahead = [completed[kind] - getattr(operation, f"wait_{kind}") for kind in KINDS]
            return Cat(~count[7] for count in ahead).all()

        queues = {}

        def queue(name, target, payload, layer=None):
            """A FIFO in front of ``target``; operations with waits leave it when they may begin."""
            waits = header.shape().size
            fifo = SyncFIFO(width=waits + payload.shape().size, depth=_QUEUE_DEPTH)
            queues[name] = fifo
            m.submodules[f"{name}_queue"] = ResetInserter(self.clear)(fifo)
            first = Signal(header.shape(), name=f"{name}_header")
            m.d.comb += [
                fifo.w_data.eq(Cat(header, payload)),
                Cat(first, target.payload).eq(fifo.r_data),
                target.valid.eq(fifo.r_rdy & (may_begin(first) if name != "weights" else 1)),
                fifo.r_en.eq(target.valid & target.ready),
            ]
            if layer is not None:
                with m.If(fifo.r_en):
                    m.d.sync += layer.eq(first.layer)

        weights, windows = Signal(self.weights.payload.shape()), Signal(self.windows.payload.shape())
        results = Signal(self.results.payload.shape())
        m.d.comb += [
            *assign(weights, compute),
            *assign(windows, compute, vector=opcode["vector"], groups=compute.ofmap_groups),
            *assign(results, compute, vector=opcode["vector"]),
        ]
        queue("loads", self.loads, transfer)
        queue("stores", self.stores, transfer)
        queue("weights", self.weights, weights)
        queue("windows", self.windows, windows, self.window_layer)
        queue("results", self.results, results, self.layer)

        # What is wrong with the descriptor at hand.
        fault = Signal(8)
        legal_columns = (compute.last_columns != 0) & (compute.last_columns <= config.vector_bytes)
        counts = [compute.ofmap_rows, compute.ofmap_columns, compute.ofmap_groups, compute.pixels]
        counts += [compute.stride_y, compute.stride_x]
        with m.If(opcode["load"] | opcode["store"]):
            legal_beats = transfer.word_beats != 0
            if config.word_beats > 1:  # the field of one bit holds no more
                legal_beats &= transfer.word_beats <= config.word_beats
            with m.If((transfer.chunks == 0) | (transfer.chunk_words == 0) | ~legal_beats):
                m.d.comb += fault.eq(ErrorCode.ILLEGAL_FIELD)
            with m.If(((transfer.memory_address | transfer.memory_stride) & (config.bus_bytes - 1)) != 0):
                m.d.comb += fault.eq(ErrorCode.MISALIGNED)
            with m.If(transfer.l1_address >= config.l1_words):
                m.d.comb += fault.eq(ErrorCode.OUT_OF_RANGE_L1)
        with m.Elif(opcode["conv"] | opcode["vector"]):
            with m.If(Cat(count == 0 for count in counts).any() | ~legal_columns):
                m.d.comb += fault.eq(ErrorCode.ILLEGAL_FIELD)
            with m.If(opcode["vector"] & ((compute.kernel_rows == 0) | (compute.kernel_columns == 0))):
                m.d.comb += fault.eq(ErrorCode.ILLEGAL_FIELD)
            with m.If(opcode["conv"] & (compute.weight_words == 0)):
                m.d.comb += fault.eq(ErrorCode.ILLEGAL_FIELD)
            with m.If(opcode["conv"] & ((compute.weights_address & (config.bus_bytes - 1)) != 0)):
                m.d.comb += fault.eq(ErrorCode.MISALIGNED)
            beyond = [compute.ifmap_address >= config.l1_vectors, compute.ofmap_address >= config.l1_vectors]
            beyond.append(compute.residual & (compute.residual_address >= config.l1_vectors))
            with m.If(Cat(beyond).any()):
                m.d.comb += fault.eq(ErrorCode.OUT_OF_RANGE_L1)
        with m.Elif(~opcode["end"]):
            m.d.comb += fault.eq(ErrorCode.UNKNOWN_OPCODE)

        # From descriptor to descriptor.
        ready = {name: fifo.w_rdy for name, fifo in queues.items()}
        targets = {
            "load": (["loads"], "loads"),
            "store": (["stores"], "stores"),
            "vector": (["windows", "results"], "computes"),
            "conv": (["weights", "windows", "results"], "computes"),
        }
        wrong, wrong_code = Signal(), Signal(8)
        m.d.comb += [
            self.request.payload.address.eq(address),
            self.request.payload.beats.eq(size // width),
            self.request.valid.eq((state == _State.FETCH) & (left != 0) & ~stopping),
            self.beats.ready.eq(state == _State.COLLECT),
            self.busy.eq((state != _State.IDLE) & (state != _State.ABORT)),
            self.draining.eq(state == _State.ABORT),
            self.clear.eq(state == _State.ABORT),
        ]
        with m.Switch(state):
            with m.Case(_State.IDLE):
                with m.If(self.start):
                    m.d.sync += [
                        address.eq(self.program_address),
                        left.eq(self.program_length),
                        stopping.eq(0),
                        state.eq(_State.FETCH),
                        *(count.eq(0) for count in (*completed.values(), *under_way.values())),
                    ]
            with m.Case(_State.FETCH):
                with m.If(stopping):
                    m.d.sync += state.eq(_State.DRAIN)
                with m.Elif((address & (config.descriptor_bytes - 1)) != 0):
                    m.d.comb += [wrong.eq(1), wrong_code.eq(ErrorCode.MISALIGNED)]
                with m.Elif(left == 0):
                    m.d.comb += [wrong.eq(1), wrong_code.eq(ErrorCode.TRUNCATED_LIST)]
                with m.Elif(self.request.ready):
                    m.d.sync += [left.eq(left - 1), beat.eq(0), state.eq(_State.COLLECT)]
            with m.Case(_State.COLLECT):
                with m.If(self.beats.valid):
                    m.d.sync += [words.eq(Cat(words, self.beats.payload)[width:]), beat.eq(beat + 1)]
                    with m.If(beat == size // width - 1):
                        m.d.sync += state.eq(_State.CHECK)
            with m.Case(_State.CHECK):
                m.d.comb += [wrong.eq(fault != 0), wrong_code.eq(fault)]
                m.d.sync += state.eq(Mux(opcode["end"], _State.DRAIN, _State.DISPATCH))
            with m.Case(_State.DISPATCH):
                for name, (names, kind) in targets.items():
                    room = Signal(name=f"{name}_room")
                    m.d.comb += room.eq(Cat(ready[target] for target in names).all() & (under_way[kind] < 127))
                    with m.If(opcode[name] & room):
                        m.d.comb += [queues[target].w_en.eq(1) for target in names]
                        m.d.comb += dispatched[kind].eq(1)
                        m.d.sync += [address.eq(address + config.descriptor_bytes), state.eq(_State.FETCH)]
            with m.Case(_State.DRAIN):
                with m.If(Cat(count == 0 for count in under_way.values()).all()):
                    m.d.comb += [self.finished.eq(~stopping), self.stopped.eq(stopping)]
                    m.d.sync += state.eq(_State.IDLE)
            with m.Case(_State.ABORT):
                with m.If(self.bus_idle):
                    m.d.sync += state.eq(_State.IDLE)
                m.d.comb += self.forget_bus.eq(self.soft_reset)
        with m.If(self.stop & self.busy):
            m.d.sync += stopping.eq(1)

        # Failures.
        quiet = Signal(32)
        late = Signal()
        m.d.comb += late.eq((self.watchdog != 0) & (quiet >= self.watchdog))
        m.d.sync += quiet.eq(Mux(self.busy & ~self.progress, quiet + 1, 0))
        with m.If(self.busy):
            with m.If(self.failed):
                m.d.comb += [
                    self.error.eq(1),
                    self.error_code.eq(self.failed_code),
                    self.error_layer.eq(self.failed_layer),
                    self.error_address.eq(self.failed_address),
                ]
            with m.Elif(wrong):
                m.d.comb += [
                    self.error.eq(1),
                    self.error_code.eq(wrong_code),
                    self.error_layer.eq(Mux(state == _State.CHECK, header.layer, Const(0, 16))),
                    self.error_address.eq(address),
                ]
            with m.Elif(late):
                m.d.comb += [
                    self.error.eq(1),
                    self.error_code.eq(ErrorCode.WATCHDOG),
                    self.error_layer.eq(self.layer),
                    self.error_address.eq(address),
                ]
            with m.If(self.error | self.soft_reset):
                m.d.comb += [self.finished.eq(0), self.stopped.eq(0)]
                m.d.sync += state.eq(_State.ABORT)
        return m
