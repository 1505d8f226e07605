"""Registers over AXI4-Lite with random pauses, and the texts that are made from the same map."""

import random
import subprocess
from pathlib import Path

import pytest

from hdl.config import MvqError
from hdl.control.register_map import ADDRESS_WIDTH, IDENTITY, OFFSETS, REGISTERS, VERSION, ErrorCode, register
from hdl.control.registers import Registers, increment_widths
from mvq.register_map import c_header, markdown, python_constants, write_register_map

from .bus.bench import OKAY, SLVERR, Part, Play, Stable, Watch, configuration, run

ROOT = Path(__file__).resolve().parents[2]
CONFIG = configuration()
PROGRAM = [item.name for item in REGISTERS if item.access == "program"]


class Driver(Part):
    """A host on AXI4-Lite that does one thing after another, each valid and ready at a time of its own.

    ``script`` is a generator: it yields ("read", name or offset), ("write", name or offset, value[, strobes]),
    ("wait", cycles) or ("drive", {port: value}), and gets the data read or the response written back; a read of an
    offset gives (data, response).
    """

    def __init__(self, script, stall=0.0, seed=0):
        self.script, self.stall, self.dice = script, stall, random.Random(seed)
        self.over = False
        self.action = None

    def start(self):
        return {"s_axi_bready": 0, "s_axi_rready": 0}

    def _next(self, result=None):
        try:
            self.action = self.script.send(result)
        except StopIteration:
            self.over, self.action = True, ("wait", 1 << 30)
        kind, *rest = self.action
        self.left = rest[0] if kind == "wait" else 0
        self.to_offer = {"read": {"ar"}, "write": {"aw", "w"}}.get(kind, set())
        self.offered = set()
        self.place = rest[0] if kind in ("read", "write") else None
        return rest[0] if kind == "drive" else {}

    def step(self, now, values):
        drive = {}
        if self.action is None:
            drive = self._next()
        elif self.action[0] in ("wait", "drive"):
            self.left -= 1
            if self.left <= 0:
                drive = self._next()
        for channel in list(self.offered):
            if values[f"s_axi_{channel}ready"]:
                self.offered.remove(channel)
                drive[f"s_axi_{channel}valid"] = 0
        if values["s_axi_rvalid"] and values["s_axi_rready"]:
            word = values["s_axi_rdata"], values["s_axi_rresp"]
            drive |= self._next(word if isinstance(self.place, int) else word[0])
        if values["s_axi_bvalid"] and values["s_axi_bready"]:
            drive |= self._next(values["s_axi_bresp"])
        for channel in sorted(self.to_offer):
            if self.dice.random() >= self.stall:
                drive |= self._offer(channel)
        return {**drive, **{f"s_axi_{name}ready": int(self.dice.random() >= self.stall) for name in "br"}}

    def _offer(self, channel):
        self.to_offer.remove(channel)
        self.offered.add(channel)
        drive = {f"s_axi_{channel}valid": 1}
        if channel == "w":
            return drive | {"s_axi_wdata": self.action[2], "s_axi_wstrb": (*self.action, 15)[3]}
        return drive | {f"s_axi_{channel}addr": self.place if isinstance(self.place, int) else OFFSETS[self.place]}


def play(script, *parts, stall=0.0, seed=0, registers=None):
    """Run ``script`` to its end."""
    driver = Driver(script, stall, seed)
    checks = [Stable("s_axi_r", ["data", "resp"]), Stable("s_axi_b", ["resp"])]
    run(registers or Registers(CONFIG), [*checks, *parts, driver], until=lambda values: driver.over)


def fields(name, value):
    """Field -> its value in ``value``."""
    return {field.name: value >> field.bit & ((1 << field.width) - 1) for field in register(name).fields}


def status(value):
    """Names of the status bits that are set."""
    return {name for name, bit in fields("status", value).items() if bit and name != "layer"}


def bit(name, *names):
    """Value of a register with these one-bit fields set."""
    return sum(1 << field.bit for field in register(name).fields if field.name in names)


def test_map_is_sound():
    """No overlaps, everything inside the address space, counters of 64 bits, and names that make identifiers."""
    words = [item.offset + 4 * word for item in REGISTERS for word in range(item.width // 32)]
    assert sorted(set(words)) == words == sorted(OFFSETS.values())
    assert max(words) < 1 << ADDRESS_WIDTH
    for item in REGISTERS:
        assert item.offset % (item.width // 8) == 0
        assert item.name.isidentifier()
        bits = [place for field in item.fields for place in range(field.bit, field.bit + field.width)]
        assert sorted(set(bits)) == bits
        assert all(place < item.width for place in bits)
        assert (item.access == "counter") <= (item.width == 64)


@pytest.mark.parametrize("stall", [0.0, 0.6])
def test_constants_and_settings(stall):
    """Constants, byte strobes, values after reset, and offsets without a register."""

    def script():
        assert (yield "read", "id") == IDENTITY == 0x4D565131
        assert (yield "read", "version") == VERSION
        assert fields("geometry", (yield "read", "geometry")) == {"rows": 16, "columns": 16, "wrf_depth": 16}
        low, high = (yield "read", "config_hash"), (yield "read", "config_hash_high")
        assert f"{high << 32 | low:016x}" == CONFIG.hash
        for index, name in enumerate(PROGRAM):
            assert (yield "read", name) == 0
            assert (yield "write", name, 0x01020304 * (index + 1)) == OKAY
        for index, name in enumerate(PROGRAM):
            assert (yield "read", name) == 0x01020304 * (index + 1)
        yield "write", "program_address", 0xAABBCCDD, 0b0110
        assert (yield "read", "program_address") == 0x01BBCC04
        yield "write", "irq_enable", 0xFFFFFFFF
        assert (yield "read", "irq_enable") == 3
        for name in ("id", "status", "cycles", "control", "error"):
            before = yield "read", name
            assert (yield "write", name, 0xFFFFFFF0) == OKAY
            assert (yield "read", name) == before
        assert (yield "read", 0x00C) == (0, SLVERR)
        assert (yield "write", 0xFFC, 1) == SLVERR
        assert (yield "read", 0x003) == (IDENTITY, OKAY)

    play(script(), stall=stall)


def test_documented_cycles():
    """A write takes effect one cycle later, and its answer comes with it; so does a read."""
    starts, answers, beats = Watch("start"), Watch("s_axi_bvalid"), Watch("s_axi_rvalid", "s_axi_rdata")
    write = {"s_axi_awvalid": 1, "s_axi_awaddr": OFFSETS["control"], "s_axi_wvalid": 1, "s_axi_wstrb": 1}
    script = Play(
        {
            0: {"s_axi_bready": 1, "s_axi_rready": 1},
            5: {**write, "s_axi_wdata": 1, "s_axi_arvalid": 1, "s_axi_araddr": 0},
            6: {"s_axi_awvalid": 0, "s_axi_wvalid": 0, "s_axi_araddr": 4},
            7: {"s_axi_arvalid": 0},
        }
    )
    run(Registers(CONFIG), [script, starts, answers, beats], cycles=12)
    assert starts.seen == [(6,)]
    assert answers.seen == [(6,)]
    assert beats.seen == [(6, IDENTITY), (7, VERSION)]


@pytest.mark.parametrize("stall", [0.0, 0.6])
def test_run(stall):
    """Start, a second start, program registers that hold, the end and its interrupt, and the next start."""
    starts, stops, irqs = Watch("start"), Watch("stop"), Watch("irq")

    def script():
        yield "write", "memory_base", 0x1000
        yield "write", "irq_enable", bit("irq_enable", "done")
        yield "write", "control", bit("control", "start")
        yield "drive", {"busy": 1, "layer": 7}
        value = yield "read", "status"
        assert status(value) == {"busy"}
        assert fields("status", value)["layer"] == 7
        yield "write", "control", bit("control", "start")
        yield "write", "memory_base", 0x2000
        assert (yield "read", "memory_base") == 0x1000
        assert status((yield "read", "status")) == {"busy", "ignored_start"}
        yield "write", "control", bit("control", "stop")
        assert len(starts.seen) == len(stops.seen) == 1
        assert not irqs.seen
        yield "drive", {"done": 1, "busy": 0}
        yield "drive", {"done": 0}
        assert status((yield "read", "status")) == {"done", "ignored_start"}
        assert irqs.seen
        assert (yield "read", "irq_status") == bit("irq_status", "done")
        yield "write", "irq_status", bit("irq_status", "error")
        assert (yield "read", "irq_status") == bit("irq_status", "done")
        yield "write", "irq_status", bit("irq_status", "done")
        assert (yield "read", "irq_status") == 0
        irqs.seen.clear()
        yield "wait", 5
        assert not irqs.seen
        yield "write", "control", bit("control", "start")
        yield "drive", {"busy": 1}
        assert status((yield "read", "status")) == {"busy"}
        assert len(starts.seen) == 2

    play(script(), starts, stops, irqs, stall=stall)


def test_failure():
    """The first error is kept; nothing starts while draining; soft reset clears, and wins over start."""
    starts, resets, irqs = Watch("start"), Watch("soft_reset"), Watch("irq")

    def fail(code, layer, address):
        return {"error": 1, "error_code": code, "error_layer": layer, "error_address": address}

    def script():
        yield "write", "irq_enable", bit("irq_enable", "error")
        yield "write", "control", bit("control", "start")
        yield "drive", {"busy": 1}
        yield "drive", {**fail(ErrorCode.READ_DECERR, 0x1234, 0x8000_0040), "busy": 0, "draining": 1}
        yield "drive", fail(ErrorCode.WATCHDOG, 1, 2)
        yield "drive", {"error": 0}
        assert status((yield "read", "status")) == {"error", "draining"}
        assert fields("error", (yield "read", "error")) == {"code": 8, "layer": 0x1234}
        assert (yield "read", "error_address") == 0x8000_0040
        yield "write", "control", bit("control", "start")
        assert status((yield "read", "status")) == {"error", "draining", "ignored_start"}
        assert len(starts.seen) == 1
        assert irqs.seen
        yield "write", "control", bit("control", "start", "soft_reset")
        yield "drive", {"draining": 0}
        assert status((yield "read", "status")) == set()
        for name in ("error", "error_address", "irq_status"):
            assert (yield "read", name) == 0
        assert len(resets.seen) == len(starts.seen) == 1
        yield "write", "control", bit("control", "start")
        yield "drive", {"busy": 1}
        yield "drive", {"busy": 0, "stopped": 1}
        yield "drive", {"stopped": 0}
        assert status((yield "read", "status")) == {"stopped"}

    play(script(), starts, resets, irqs)


def test_start_twice_in_a_row_starts_once():
    """The second write comes before ``busy`` can be high."""
    starts = Watch("start")
    write = {"s_axi_awvalid": 1, "s_axi_awaddr": OFFSETS["control"], "s_axi_wvalid": 1, "s_axi_wstrb": 1}
    script = Play(
        {
            0: {"s_axi_bready": 1, **write, "s_axi_wdata": 1},
            2: {"s_axi_awvalid": 0, "s_axi_wvalid": 0, "busy": 1},
        }
    )
    run(Registers(CONFIG), [script, starts], cycles=8)
    assert starts.seen == [(1,)]


class Count(Part):
    """Random increments, and ``busy`` during some of the cycles; ``totals`` has what should be counted."""

    def __init__(self, cycles, seed=0):
        self.cycles, self.dice = cycles, random.Random(seed)
        self.totals = dict.fromkeys(["cycles", *increment_widths(CONFIG)], 0)

    def step(self, now, values):
        if values["busy"]:
            self.totals["cycles"] += 1
            for name in increment_widths(CONFIG):
                self.totals[name] += values[f"count_{name}"]
        drive = {f"count_{name}": self.dice.getrandbits(width) for name, width in increment_widths(CONFIG).items()}
        return {**drive, "busy": int(now < self.cycles and self.dice.random() < 0.8)}


def test_counters():
    count = Count(200)

    def script():
        yield "wait", 300
        for name, total in count.totals.items():
            assert total > 50
            assert (yield "read", name) == total
            assert (yield "read", f"{name}_high") == 0
        yield "write", "control", bit("control", "clear_counters")
        for name in count.totals:
            assert (yield "read", name) == 0

    play(script(), count)
    assert increment_widths(CONFIG)["l1_reads"] == increment_widths(CONFIG)["l1_writes"] == 2
    assert increment_widths(CONFIG)["gated_multiplications"] == 7  # 16 rows of 4 multipliers


def test_start_clears_counters():
    def script():
        yield "drive", {"busy": 1, "count_l1_reads": 3}
        yield "drive", {"busy": 0}
        assert (yield "read", "l1_reads") == 3
        yield "write", "control", bit("control", "start")
        assert (yield "read", "l1_reads") == 0

    play(script())


def test_high_word_is_of_the_moment_of_the_low_word():
    """A counter that passes a multiple of 2**32 between the two reads."""

    def script():
        yield "drive", {"busy": 1, "count_gated_multiplications": (1 << 33) + 0xFFFFFFFF}
        yield "drive", {"busy": 0}
        assert (yield "read", "gated_multiplications") == 0xFFFFFFFF
        yield "drive", {"busy": 1, "count_gated_multiplications": 1}
        yield "drive", {"busy": 0}
        assert (yield "read", "gated_multiplications_high") == 2
        assert (yield "read", "gated_multiplications") == 0
        assert (yield "read", "gated_multiplications_high") == 3

    play(script(), registers=Registers(CONFIG, increment_widths(CONFIG) | {"gated_multiplications": 40}))


def test_markdown_is_up_to_date():
    page = (ROOT / "docs" / "registers.md").read_text()
    assert page == markdown(), "run python -m mvq.register_map docs/registers.md"


def test_c_header_compiles_and_agrees(tmp_path):
    """Every constant, seen by a C compiler."""
    write_register_map(tmp_path / "mvq_registers.h")
    checks = {f"MVQ_REG_{name}": offset for name, offset in OFFSETS.items()}
    checks |= {f"MVQ_ERROR_{code.name}": code.value for code in ErrorCode}
    for item in REGISTERS:
        for field in item.fields:
            checks[f"MVQ_{item.name}_{field.name}_MASK >> MVQ_{item.name}_{field.name}_SHIFT"] = (1 << field.width) - 1
    lines = [f'_Static_assert(({name.upper()}) == {value}, "{name}");' for name, value in checks.items()]
    source = tmp_path / "check.c"
    source.write_text('#include "mvq_registers.h"\n#include "mvq_registers.h"\n' + "\n".join(lines))
    command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_python_constants_agree():
    constants = {}
    exec(python_constants(), constants)
    assert constants["OFFSETS"] == OFFSETS
    assert constants["ERRORS"] == {code.name.lower(): code.value for code in ErrorCode}
    assert constants["FIELDS"]["status"]["layer"] == (16, 16)
    assert set(constants["FIELDS"]) == {item.name for item in REGISTERS if item.fields}


def test_files_are_named_by_their_ending(tmp_path):
    for name, text in (("r.md", markdown()), ("r.h", c_header()), ("r.py", python_constants())):
        assert write_register_map(tmp_path / name).read_text() == text
    with pytest.raises(MvqError, match=r"r\.txt: the register map is written as \.md, \.h, \.py"):
        write_register_map(tmp_path / "r.txt")
