"""Control and status registers behind AXI4-Lite, built from :mod:`~hdl.control.register_map`."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..bus.axi import axi4_lite_slave, expose
from ..bus.axi_lite import AxiLiteSlave
from ..config import address_width
from ..verilog import place
from .register_map import ADDRESS_WIDTH, IDENTITY, OFFSETS, REGISTERS, VERSION, register

__all__ = ["Registers", "increment_widths"]


def increment_widths(config):
    """Counter -> bits of its increment in a cycle, for every counter but ``cycles``."""
    array = config.array
    multipliers = array.rows * array.groups * array.multipliers_per_vector
    most = {"l1_reads": 3, "l1_writes": 2, "gated_multiplications": multipliers}
    counters = [item.name for item in REGISTERS if item.access == "counter" and item.name != "cycles"]
    return {name: address_width(most.get(name, 1) + 1) for name in counters}


class Registers(wiring.Component):
    """What a driver sees: commands, program, status, interrupt and counters.

    Timing, in cycles: see :class:`~hdl.bus.axi_lite.AxiLiteSlave` for reads and writes. A write to ``control`` in t
    gives ``start``, ``stop`` and ``soft_reset`` in t+1, for one cycle; other registers have their new value in t+1.
    ``start`` is given only when no run is under way: it clears the counters, how the last run ended and its error, and
    ``busy`` must be high from the cycle after it until the run ends. A soft reset clears the same but the counters, and
    irq_status too. Inputs are seen by the driver one cycle later.

    The counter ``cycles`` counts the cycles in which ``busy`` is high; the others add their increments in these cycles.
    Reading the low word of a counter keeps the high word of that moment, which is what any high word reads as.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.
    widths : counter -> bits of its increment; those of :func:`increment_widths` when None.

    Members
    -------
    s_axi_... : AXI4-Lite, see :func:`~hdl.bus.axi.axi4_lite_slave`. ``irq`` : Out(1). Level.
    start, stop, soft_reset : Out(1). Pulses. ``stop`` is given whether or not a run is under way.
    program_address, program_length, memory_base, memory_limit, output_base, output_limit, watchdog : Out(32). They keep
        their values during a run.
    busy, draining : In(1). Levels. ``layer`` : In(16). Layer that is under way.
    done, stopped : In(1). Pulses: how the run ended.
    error : In(1). Pulse; with it ``error_code`` : In(8), ``error_layer`` : In(16) and ``error_address`` : In(32). The
        first of a run is kept.
    count_NAME : In(``widths``), for each counter but ``cycles``.
    """

    module_name = "registers"
    latency = 1

    def __init__(self, config, widths=None):
        self.config, self.widths = config, widths or increment_widths(config)
        pulses = {name: Out(1) for name in ("start", "stop", "soft_reset")}
        super().__init__(
            {
                **axi4_lite_slave(ADDRESS_WIDTH),
                "irq": Out(1),
                **pulses,
                **{item.name: Out(32) for item in REGISTERS if item.access == "program"},
                **{name: In(1) for name in ("busy", "draining", "done", "stopped", "error")},
                "layer": In(16),
                "error_code": In(8),
                "error_layer": In(16),
                "error_address": In(32),
                **{f"count_{name}": In(width) for name, width in self.widths.items()},
            }
        )

    def elaborate(self, platform):
        m = Module()
        array = self.config.array
        bus = place(m, platform, "bus", AxiLiteSlave(ADDRESS_WIDTH))
        expose(m, self, bus, "s_axi_")
        words = {name: Signal(32, name=f"word_{name}") for name in OFFSETS}  # what each word reads as
        written = {name: Signal(name=f"written_{name}") for name in OFFSETS}
        self._decode(m, bus, words, written)

        def show(name, values):
            for field in register(name).fields:
                m.d.comb += words[name][field.bit : field.bit + field.width].eq(values[field.name])

        def given(name, field):
            """This cycle writes a 1 to the one-bit ``field``."""
            bit = next(item.bit for item in register(name).fields if item.name == field)
            return written[name] & bus.write_data[bit] & bus.write_mask[bit]

        config_hash = int(self.config.hash, 16)
        m.d.comb += [
            words["id"].eq(IDENTITY),
            words["version"].eq(VERSION),
            words["config_hash"].eq(config_hash & 0xFFFFFFFF),
            words["config_hash_high"].eq(config_hash >> 32),
        ]
        show("geometry", {"rows": array.rows, "columns": array.columns, "wrf_depth": array.wrf_depth})

        # Commands. A run is under way from `start` on; `busy` follows one cycle later.
        running, refused, clear_counters = Signal(), Signal(), Signal()
        wants_start = given("control", "start") & ~given("control", "soft_reset")
        m.d.comb += [running.eq(self.busy | self.start), refused.eq(running | self.draining)]
        m.d.sync += [
            self.start.eq(wants_start & ~refused),
            self.stop.eq(given("control", "stop")),
            self.soft_reset.eq(given("control", "soft_reset")),
            clear_counters.eq(given("control", "clear_counters")),
        ]

        # How the run goes, or how it ended.
        ended = {name: Signal(name=f"was_{name}") for name in ("done", "error", "stopped", "ignored_start")}
        code, layer, address = Signal(8), Signal(16), Signal(32)
        for name in ("done", "error", "stopped"):
            with m.If(getattr(self, name)):
                m.d.sync += ended[name].eq(1)
        with m.If(wants_start & refused):
            m.d.sync += ended["ignored_start"].eq(1)
        with m.If(self.error & ~ended["error"]):
            m.d.sync += [code.eq(self.error_code), layer.eq(self.error_layer), address.eq(self.error_address)]
        with m.If(self.start | self.soft_reset):
            m.d.sync += [*(bit.eq(0) for bit in ended.values()), code.eq(0), layer.eq(0), address.eq(0)]
        show("status", {**ended, "busy": self.busy, "draining": self.draining, "layer": self.layer})
        show("error", {"code": code, "layer": layer})
        m.d.comb += words["error_address"].eq(address)

        # Settings.
        for item in REGISTERS:
            if item.access in ("setting", "program"):
                used = sum(((1 << field.width) - 1) << field.bit for field in item.fields) or 0xFFFFFFFF
                value = Signal(used.bit_length(), name=f"value_{item.name}")
                m.d.comb += words[item.name].eq(value)
                free = ~running if item.access == "program" else 1
                with m.If(written[item.name] & free):
                    m.d.sync += value.eq((value & ~bus.write_mask) | (bus.write_data & bus.write_mask))
                if item.access == "program":
                    m.d.comb += getattr(self, item.name).eq(value)

        # Interrupt.
        events = {name: Signal(name=f"irq_{name}") for name in ("done", "error")}
        for name, event in events.items():
            with m.If(getattr(self, name)):
                m.d.sync += event.eq(1)
            with m.Elif(self.soft_reset | given("irq_status", name)):
                m.d.sync += event.eq(0)
        show("irq_status", events)
        m.d.sync += self.irq.eq((words["irq_status"] & words["irq_enable"]).any())

        # Counters.
        high = Signal(32)
        increments = {"cycles": 1} | {name: getattr(self, f"count_{name}") for name in self.widths}
        for name, increment in increments.items():
            counter = Signal(64, name=f"counter_{name}")
            m.d.sync += counter.eq(counter + Mux(self.busy, increment, 0))
            with m.If(self.start | clear_counters):
                m.d.sync += counter.eq(0)
            m.d.comb += [words[name].eq(counter[:32]), words[f"{name}_high"].eq(high)]
            with m.If(bus.read & (bus.read_word == OFFSETS[name] // 4)):
                m.d.sync += high.eq(counter[32:])
        return m

    def _decode(self, m, bus, words, written):
        """The word that is read, and the strobe of the word that is written."""
        with m.Switch(bus.read_word):
            for name, offset in OFFSETS.items():
                with m.Case(offset // 4):
                    m.d.comb += [bus.read_data.eq(words[name]), bus.read_known.eq(1)]
        with m.Switch(bus.write_word):
            for name, offset in OFFSETS.items():
                with m.Case(offset // 4):
                    m.d.comb += [written[name].eq(bus.write), bus.write_known.eq(1)]
