"""A component in Amaranth's simulator, cycle by cycle, with drivers, an AXI memory and checkers of the bus rules.

A part has ``step(now, values)``: it sees the ports in cycle ``now``, just before the clock edge, and returns what to
drive from the next cycle on.
"""

import random

from amaranth.hdl import Cat, Value
from amaranth.sim import Simulator

from hdl.accelerator_config import AcceleratorConfig
from hdl.config import preset

OKAY, SLVERR, DECERR = 0, 2, 3
#: payload of AR and AW.
ADDRESS_FIELDS = ("addr", "len", "size", "burst", "id", "lock", "cache", "prot", "qos")


def configuration(width=64, burst_beats=16, outstanding=8):
    """An accelerator with a bus of ``width`` bits."""
    array = preset("ews-cms", 16, stream_width=width)
    return AcceleratorConfig(array=array, burst_beats=burst_beats, outstanding=outstanding)


def packed(requests):
    """Payloads of a request stream for (address, beats)."""
    return [address | beats << 32 for address, beats in requests]


def run(component, parts, cycles=20_000, until=None):
    """Run until ``until(values)`` holds for the first time, or ``cycles`` are over; returns the cycles run."""
    ports = {"__".join(map(str, path)): Value.cast(value) for path, _, value in component.signature.flatten(component)}
    everything = Cat(*ports.values())
    places = [(name, sum(map(len, list(ports.values())[:index]))) for index, name in enumerate(ports)]
    masks = {name: (1 << len(port)) - 1 for name, port in ports.items()}
    driven = {}
    count = 0

    async def bench(ctx):
        nonlocal count

        def put(drive):
            """Setting what has not changed would cost as much as setting what has."""
            for name, value in drive.items():
                if driven.get(name, 0) != value:
                    driven[name] = value
                    ctx.set(ports[name], value)

        for part in parts:
            put(part.start())
        while count < cycles:
            _, _, sampled = await ctx.tick().sample(everything)
            values = {name: sampled >> place & masks[name] for name, place in places}
            drive = {}
            for part in parts:
                drive |= part.step(count, values)
            count += 1
            if until and until(values):
                return
            put(drive)
        assert not until, f"not there after {cycles} cycles"

    sim = Simulator(component)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return count


class Part:
    """Something that drives nothing at first."""

    def start(self):
        return {}

    def step(self, now, values):
        return {}


class Stable(Part):
    """A channel keeps ``valid`` and its payload until ``ready``, unless ``excused(values)``."""

    def __init__(self, prefix, payload, valid="valid", ready="ready", excused=lambda values: False):
        self.payload = [prefix + name for name in payload]
        self.valid, self.ready, self.excused = prefix + valid, prefix + ready, excused
        self.waiting = None

    def step(self, now, values):
        if self.waiting is not None:
            assert values[self.valid], f"cycle {now}: {self.valid} fell before {self.ready}"
            assert [values[name] for name in self.payload] == self.waiting, f"cycle {now}: {self.valid}: payload moved"
        held = values[self.valid] and not values[self.ready] and not self.excused(values)
        self.waiting = [values[name] for name in self.payload] if held else None
        return {}


class Feed(Part):
    """Drives the integers ``items`` into a stream; ``taken`` has their cycles."""

    def __init__(self, port, items, stall=0.0, seed=0):
        self.port, self.items, self.stall, self.dice = port, list(items), stall, random.Random(f"{port} {seed}")
        self.taken = []
        self.offered = False
        self.paused = False

    def start(self):
        return self._offer()

    def _offer(self):
        self.offered = bool(self.items) and not self.paused and self.dice.random() >= self.stall
        drive = {f"{self.port}__valid": int(self.offered)}
        if self.offered:
            drive[f"{self.port}__payload"] = self.items[0]
        return drive

    def step(self, now, values):
        if self.offered and values[f"{self.port}__ready"]:
            self.items.pop(0)
            self.taken.append(now)
            return self._offer()
        return {} if self.offered and not self.paused else self._offer()


class Drain(Part):
    """Takes a stream; ``got`` and ``when`` have its values and their cycles."""

    def __init__(self, port, stall=0.0, seed=0):
        self.port, self.stall, self.dice = port, stall, random.Random(f"{port} {seed}")
        self.got, self.when = [], []

    def start(self):
        return {f"{self.port}__ready": int(self.dice.random() >= self.stall)}

    def step(self, now, values):
        if values[f"{self.port}__valid"] and values[f"{self.port}__ready"]:
            self.got.append(values[f"{self.port}__payload"])
            self.when.append(now)
        return self.start()


class Watch(Part):
    """``seen`` has (cycle, values of the other ports) of each cycle in which ``pulse`` was high."""

    def __init__(self, pulse, *others):
        self.pulse, self.others, self.seen = pulse, others, []

    def step(self, now, values):
        if values[self.pulse]:
            self.seen.append((now, *(values[name] for name in self.others)))
        return {}


class Play(Part):
    """Drives ``{cycle: {port: value}}``, seen in that cycle."""

    def __init__(self, script):
        self.script = script

    def start(self):
        return self.script.get(0, {})

    def step(self, now, values):
        return self.script.get(now + 1, {})


class _Channel:
    """What the read and the write side of the memory share."""

    def __init__(self, config, kind, stall, latency, responses, seed):
        self.config, self.kind, self.stall, self.latency = config, kind, stall, latency
        self.responses = responses or {}
        self.dice = random.Random(f"{kind} {seed}")
        self.bursts = []  # (cycle of the handshake, address, beats)
        self.blocked = set()  # channels that are held up for now

    def _go(self, channel):
        return int(channel not in self.blocked and self.dice.random() >= self.stall)

    def _take_address(self, now, values):
        """The burst that is taken in this cycle, or None; checks it."""
        kind, config = f"m_axi_a{self.kind}", self.config
        if not (values[f"{kind}valid"] and values[f"{kind}ready"]):
            return None
        address, beats = values[f"{kind}addr"], values[f"{kind}len"] + 1
        assert 1 << values[f"{kind}size"] == config.bus_bytes
        fields = {name: values[kind + name] for name in ("id", "burst", "lock", "cache", "prot", "qos")}
        assert fields == {"id": 0, "burst": 1, "lock": 0, "cache": 3, "prot": 0, "qos": 0}
        longest = config.burst_beats * config.bus_bytes
        last = address + beats * config.bus_bytes - 1
        assert address % config.bus_bytes == 0
        assert address // longest == last // longest, f"cycle {now}: {beats} beats at {address:#x} cross a burst"
        assert address // 4096 == last // 4096
        self.bursts.append((now, address, beats))
        return address, beats


class ReadMemory(_Channel, Part):
    """AR and R of a memory whose beat at ``address`` is ``content(address)``.

    ``latency`` cycles after its address was taken a burst may begin to return; ``responses``: address of a beat ->
    bad response.
    """

    def __init__(self, config, stall=0.0, latency=1, responses=None, seed=0):
        super().__init__(config, "r", stall, latency, responses, seed)
        self.queue = []  # (address of a beat, last of its burst, first cycle)
        self.offered = False
        self.returned = []  # cycles of the beats that were taken

    def content(self, address):
        width = self.config.array.stream_width
        return (address * 0x9E3779B97F4A7C15F39CC0605CEDC835 ^ (address << 7)) % (1 << width)

    def start(self):
        return {"m_axi_arready": self._go("ar")}

    def step(self, now, values):
        burst = self._take_address(now, values)
        if burst:
            address, beats = burst
            for beat in range(beats):
                at = address + beat * self.config.bus_bytes
                self.queue.append((at, beat == beats - 1, now + self.latency))
        assert sum(last for _, last, _ in self.queue) <= self.config.outstanding
        assert values["m_axi_rready"], f"cycle {now}: rready is low"
        if self.offered:
            self.queue.pop(0)
            self.returned.append(now)
        self.offered = bool(self.queue) and now + 1 >= self.queue[0][2] and bool(self._go("r"))
        drive = {**self.start(), "m_axi_rvalid": int(self.offered)}
        if self.offered:
            address, last, _ = self.queue[0]
            response = self.responses.get(address, OKAY)
            drive |= {"m_axi_rdata": self.content(address), "m_axi_rlast": int(last), "m_axi_rresp": response}
        return drive

    def reset(self):
        self.queue, self.offered = [], False


class WriteMemory(_Channel, Part):
    """AW, W and B of a memory; ``stored``: address of a beat -> data. ``responses``: address of a burst -> bad
    response."""

    def __init__(self, config, stall=0.0, latency=1, responses=None, seed=0):
        super().__init__(config, "w", stall, latency, responses, seed)
        self.addresses, self.beats, self.answers = [], [], []
        self.stored, self.blank = {}, 0
        self.addresses_seen = self.bursts_seen = 0
        self.fresh_address = self.fresh_burst = True
        self.offered = False
        self.beat_cycles, self.answer_cycles = [], []

    def start(self):
        return {"m_axi_awready": self._go("aw"), "m_axi_wready": self._go("w")}

    def _see(self, now, values):
        """No W before its AW appears."""
        if values["m_axi_awvalid"]:
            self.addresses_seen += self.fresh_address
            self.fresh_address = bool(values["m_axi_awready"])
        if values["m_axi_wvalid"]:
            self.bursts_seen += self.fresh_burst
            self.fresh_burst = bool(values["m_axi_wready"] and values["m_axi_wlast"])
        assert self.bursts_seen <= self.addresses_seen, f"cycle {now}: W before AW"

    def step(self, now, values):
        self._see(now, values)
        burst = self._take_address(now, values)
        if burst:
            self.addresses.append(burst)
        if values["m_axi_wvalid"] and values["m_axi_wready"]:
            self.beats.append((values["m_axi_wdata"], values["m_axi_wstrb"], values["m_axi_wlast"]))
            self.beat_cycles.append(now)
        if self.addresses and len(self.beats) >= self.addresses[0][1]:
            self._store(now, *self.addresses.pop(0))
        assert values["m_axi_bready"]
        if self.offered:
            self.answers.pop(0)
            self.answer_cycles.append(now)
        self.offered = bool(self.answers) and now + 1 >= self.answers[0][1] and bool(self._go("b"))
        drive = {**self.start(), "m_axi_bvalid": int(self.offered)}
        if self.offered:
            drive["m_axi_bresp"] = self.answers[0][0]
        return drive

    def _store(self, now, address, count):
        burst, self.beats = self.beats[:count], self.beats[count:]
        assert [last for *_, last in burst] == [0] * (count - 1) + [1], f"cycle {now}: wlast is wrong"
        for beat, (value, strobes, _) in enumerate(burst):
            assert strobes in (0, (1 << self.config.bus_bytes) - 1)
            if strobes:
                self.stored[address + beat * self.config.bus_bytes] = value
            else:
                self.blank += 1
        self.answers.append((self.responses.get(address, OKAY), now + self.latency))
        assert len(self.answers) + len(self.addresses) <= self.config.outstanding

    def reset(self):
        self.addresses, self.beats, self.answers, self.offered = [], [], [], False
        self.fresh_address = self.fresh_burst = True
        self.addresses_seen = self.bursts_seen = 0
