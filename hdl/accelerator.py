"""The accelerator: the core with its memories, loaders, bus master, control registers and program."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from .bus.axi import axi4_lite_slave, axi4_master, expose
from .bus.guard import RequestGuard
from .bus.read_master import ReadMaster
from .bus.write_master import WriteMaster
from .control.dispatcher import Dispatcher
from .control.ofmap_storer import OfmapStorer
from .control.register_map import ADDRESS_WIDTH, ErrorCode
from .control.registers import Registers
from .control.subset_splitter import SubsetSplitter
from .control.transfer_engines import LoadEngine, StoreEngine
from .control.window_loader import WindowLoader
from .core import BLOCKS as CORE_BLOCKS
from .core import Core
from .memory.l1 import L1Memory
from .memory.psum_buffer import PsumBuffer
from .streams import forward
from .verilog import place

__all__ = ["BLOCKS", "Accelerator"]

#: instance path below the accelerator -> block of the area report.
BLOCKS = {
    **{f"core.{path}": block for path, block in CORE_BLOCKS.items()},
    "l1": "l1",
    "psum_buffer": "l1",
    "window_loader": "feature maps",
    "ofmap_storer": "feature maps",
    "load_engine": "bus",
    "store_engine": "bus",
    "read_master": "bus",
    "write_master": "bus",
    "*_guard": "bus",
}

#: what the dispatcher takes from the registers, and what it shows there.
_COMMANDS = ("start", "stop", "soft_reset", "program_address", "program_length", "watchdog")
_STATUS = ("busy", "draining", "stopped", "error", "error_code", "error_layer", "error_address", "layer")


class Accelerator(wiring.Component):
    """Runs a list of descriptors from memory; docs/accelerator.md describes it, docs/registers.md its registers.

    Cycles of whole programs: golden.timing.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.

    Members
    -------
    s_axi_... : AXI4-Lite slave of 32 bits. ``m_axi_...`` : AXI4 master of ``stream_width`` bits.
    irq : Out(1). High while an enabled interrupt is pending.
    """

    module_name = "mvq_accelerator"

    def __init__(self, config):
        self.config = config
        super().__init__(
            {
                **axi4_lite_slave(ADDRESS_WIDTH),
                **axi4_master(config.array.stream_width),
                "irq": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        clear = Signal()  # a run is given up: engines and buffers start afresh

        def engine(name, component):
            return place(m, platform, name, component, clear)

        registers = place(m, platform, "registers", Registers(config))
        dispatcher = place(m, platform, "dispatcher", Dispatcher(config))
        clients = [name for name, _ in config.read_buffers]
        reads = place(m, platform, "read_master", ReadMaster(config, config.read_buffers))
        writes = place(m, platform, "write_master", WriteMaster(config))
        splitter = engine("subset_splitter", SubsetSplitter(config))
        core = engine("core", Core(config.array))
        window = engine("window_loader", WindowLoader(config))
        storer = engine("ofmap_storer", OfmapStorer(config))
        load, store = engine("load_engine", LoadEngine(config)), engine("store_engine", StoreEngine(config))
        l1, psums = engine("l1", L1Memory(config)), engine("psum_buffer", PsumBuffer(config))

        # Host.
        expose(m, self, registers, "s_axi_")
        m.d.comb += [
            self.irq.eq(registers.irq),
            *(getattr(dispatcher, name).eq(getattr(registers, name)) for name in _COMMANDS),
            *(getattr(registers, name).eq(getattr(dispatcher, name)) for name in _STATUS),
            registers.done.eq(dispatcher.finished),
            clear.eq(dispatcher.clear),
        ]

        # Bus.
        expose(m, self, reads, "m_axi_")
        expose(m, self, writes, "m_axi_")
        m.d.comb += [dispatcher.bus_idle.eq(reads.idle & writes.idle)]
        for master in (reads, writes):
            m.d.comb += [master.aborting.eq(dispatcher.clear), master.forget.eq(dispatcher.forget_bus)]
        requests = {  # who asks, where it goes, layer
            "descriptors": (dispatcher.request, reads.descriptors_request, Const(0, 16)),
            "weights": (splitter.request, reads.weights_request, splitter.request_layer),
            "loads": (load.request, reads.loads_request, load.layer),
            "stores": (store.request, writes.request, store.layer),
        }
        failures = []  # (condition, error, layer, address)
        asked = {}  # layer of the latest request
        for name, (request, passed, layer) in requests.items():
            guard = place(m, platform, f"{name}_guard", RequestGuard(config.bus_bytes))
            region = "output" if name == "stores" else "memory"
            m.d.comb += [
                guard.base.eq(getattr(registers, f"{region}_base")),
                guard.limit.eq(getattr(registers, f"{region}_limit")),
            ]
            forward(m, request, guard.request)
            forward(m, guard.passed, passed)
            asked[name] = Signal(16, name=f"{name}_layer")
            with m.If(passed.valid & passed.ready):
                m.d.sync += asked[name].eq(layer)
            failures.append((guard.refused, "out_of_range_memory", layer, request.payload.address))
        read_layer = Signal(16)
        with m.Switch(reads.error_client):
            for index, name in enumerate(clients):
                with m.Case(index):
                    m.d.comb += read_layer.eq(asked[name])
        for master, kind, layer in ((reads, "read", read_layer), (writes, "write", asked["stores"])):
            for error, wanted in (("slverr", 0), ("decerr", 1)):
                condition = master.error & (master.error_decode == wanted)
                failures.append((condition, f"{kind}_{error}", layer, master.error_address))

        # Operations.
        forward(m, reads.descriptors_data, dispatcher.beats)
        forward(m, dispatcher.weights, splitter.op)
        forward(m, dispatcher.windows, window.op)
        forward(m, dispatcher.results, storer.op)
        forward(m, dispatcher.loads, load.op)
        forward(m, dispatcher.stores, store.op)
        m.d.comb += [done.eq(engine.done) for done, engine in zip(dispatcher.done, (load, store, storer), strict=True)]

        # Weights and activations to the core, results from it.
        forward(m, reads.weights_data, splitter.words)
        forward(m, splitter.command, core.command)
        forward(m, splitter.weights, core.weights)
        forward(m, splitter.subset, window.subset)
        forward(m, splitter.blocks, storer.blocks)
        forward(m, window.ifmap, core.ifmap)
        forward(m, window.vectors, storer.vectors)
        forward(m, psums.vectors_out, core.psum_in)
        ofmap, complete = core.ofmap, Signal()
        m.d.comb += [
            splitter.loading.eq(core.loading),
            complete.eq(ofmap.payload.final | ofmap.payload.raw),
            storer.core.valid.eq(ofmap.valid & complete),
            storer.core.payload.eq(ofmap.payload.as_value()),
            psums.vectors_in.valid.eq(ofmap.valid & ~complete),
            psums.vectors_in.payload.eq(ofmap.payload.psums.as_value()),
            ofmap.ready.eq(Mux(complete, storer.core.ready, psums.vectors_in.ready)),
        ]

        # L1.
        forward(m, reads.loads_data, load.beats)
        forward(m, store.beats, writes.data)
        m.d.comb += [
            store.answered.eq(writes.done),
            l1.window_read_valid.eq(window.read_valid),
            l1.window_read_address.eq(window.read_address),
            window.read_data.eq(l1.window_read_data),
            l1.residual_read_valid.eq(storer.read_valid),
            l1.residual_read_address.eq(storer.read_address),
            storer.read_ready.eq(l1.residual_read_ready),
            storer.read_data.eq(l1.residual_read_data),
            l1.store_read_valid.eq(store.read_valid),
            l1.store_read_address.eq(store.read_address),
            store.read_ready.eq(l1.store_read_ready),
            store.read_data.eq(l1.store_read_data),
            l1.storer_write_valid.eq(storer.write_valid),
            l1.storer_write_address.eq(storer.write_address),
            l1.storer_write_data.eq(storer.write_data),
            l1.load_write_valid.eq(load.write_valid),
            l1.load_write_address.eq(load.write_address),
            l1.load_write_data.eq(load.write_data),
            load.write_ready.eq(l1.load_write_ready),
        ]
        accesses = [
            (window.read_valid, window.read_address, config.l1_vectors, dispatcher.window_layer),
            (storer.read_valid, storer.read_address, config.l1_vectors, dispatcher.layer),
            (storer.write_valid, storer.write_address, config.l1_vectors, dispatcher.layer),
            (store.read_valid, store.read_address, config.l1_words, store.layer),
            (load.write_valid, load.write_address, config.l1_words, load.layer),
        ]
        for valid, address, size, layer in accesses:
            failures.append((valid & (address >= size), "out_of_range_l1", layer, address))

        # Failures, progress and counters.
        for condition, error, layer, address in reversed(failures):  # the first wins
            with m.If(condition):
                m.d.comb += [
                    dispatcher.failed.eq(1),
                    dispatcher.failed_code.eq(ErrorCode[error.upper()]),
                    dispatcher.failed_layer.eq(layer),
                    dispatcher.failed_address.eq(address),
                ]
        read_beat, write_beat = self.m_axi_rvalid & self.m_axi_rready, self.m_axi_wvalid & self.m_axi_wready
        psum_read = psums.vectors_out.valid & psums.vectors_out.ready
        psum_written = psums.vectors_in.valid & psums.vectors_in.ready
        l1_reads = [l1.window_read_valid]
        l1_reads += [storer.read_valid & storer.read_ready, store.read_valid & store.read_ready]
        l1_writes = [storer.write_valid, load.write_valid & load.write_ready]
        moved = [read_beat, write_beat, psum_read, psum_written, *l1_reads, *l1_writes, core.computing]
        moved += [self.m_axi_arvalid & self.m_axi_arready, self.m_axi_bvalid & self.m_axi_bready]
        m.d.comb += [
            dispatcher.progress.eq(Cat(moved).any()),
            registers.count_busy_cycles.eq(core.computing),
            registers.count_weight_stalls.eq(core.weight_stall),
            registers.count_activation_stalls.eq(core.activation_stall),
            registers.count_bus_read_beats.eq(read_beat),
            registers.count_bus_write_beats.eq(write_beat),
            registers.count_l1_reads.eq(sum(l1_reads)),
            registers.count_l1_writes.eq(sum(l1_writes)),
            registers.count_psum_reads.eq(psum_read),
            registers.count_psum_writes.eq(psum_written),
        ]
        if config.array.gating_counter:
            m.d.comb += registers.count_gated_multiplications.eq(core.gated)
        return m
