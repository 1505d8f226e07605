"""Read master against a memory with random stalls, errors, aborts and a bus reset; every cycle that it documents."""

import gc
import random

import pytest

from hdl.bus.read_master import ReadMaster
from hdl.config import ConfigError

from .bench import (
    ADDRESS_FIELDS,
    DECERR,
    SLVERR,
    Drain,
    Feed,
    Part,
    Play,
    ReadMemory,
    Stable,
    Watch,
    configuration,
    packed,
    run,
)

CLIENTS = ("descriptors", "weights", "loads")


def random_requests(config, dice, count=6, longest=60):
    """Client -> requests; some of one beat, of none, and across several burst and 4 KB boundaries."""
    beats = lambda: dice.choice([0, 1, 2, dice.randrange(1, longest)])  # noqa: E731
    return {
        name: [(dice.randrange(1 << 12) * config.bus_bytes + (index << 20), beats()) for _ in range(count)]
        for index, name in enumerate(CLIENTS)
    }


def expected(config, memory, requests):
    """Beats of a client's ``requests``."""
    return [memory.content(at + beat * config.bus_bytes) for at, beats in requests for beat in range(beats)]


class Bench:
    """A read master with its memory, clients and checkers."""

    def __init__(self, config, requests, stall=0.0, latency=4, responses=None, seed=0, depth=None, drain_stall=None):
        self.config, self.requests = config, requests
        depth = depth or 2 * config.burst_beats
        self.master = ReadMaster(config, [(name, depth) for name in CLIENTS])
        self.memory = ReadMemory(config, stall, latency, responses, seed)
        self.feeds = {name: Feed(f"{name}_request", packed(items), stall, seed) for name, items in requests.items()}
        drain_stall = drain_stall or {}
        self.drains = {name: Drain(f"{name}_data", drain_stall.get(name, stall), seed) for name in CLIENTS}
        self.errors = Watch("error", "error_decode", "error_client", "error_address")
        ends = lambda values: values["aborting"] or values["forget"]  # noqa: E731
        forgotten = lambda values: values["forget"]  # noqa: E731
        self.parts = [
            Stable("m_axi_ar", ADDRESS_FIELDS, excused=forgotten),
            *(Stable(f"{name}_data__", ["payload"], excused=ends) for name in CLIENTS),
            self.memory,
            *self.feeds.values(),
            *self.drains.values(),
            self.errors,
        ]

    def run(self, *parts, cycles=20_000, until=None):
        return run(self.master, [*self.parts, *parts], cycles, until)

    def finished(self, values):
        wanted = {name: sum(beats for _, beats in items) for name, items in self.requests.items()}
        return all(len(self.drains[name].got) >= count for name, count in wanted.items())

    def check(self):
        for name, items in self.requests.items():
            assert self.drains[name].got == expected(self.config, self.memory, items), name


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize(("width", "burst_beats", "outstanding"), [(64, 16, 8), (256, 4, 1), (128, 1, 2)])
def test_random_requests(width, burst_beats, outstanding, stall):
    config = configuration(width, burst_beats, outstanding)
    bench = Bench(config, random_requests(config, random.Random(width)), stall)
    bench.run(until=bench.finished)
    bench.check()
    assert not bench.errors.seen


def test_documented_cycles():
    """One client: request, AR, R and data in the cycles that the docstring gives, without a gap from burst to burst."""
    config, latency = configuration(), 9
    requests = {"weights": [(64, 40), (4096 - 16, 16)]}
    bench = Bench(config, requests, latency=latency, depth=128)
    bench.run(until=bench.finished)
    bench.check()
    (first, second), start = bench.feeds["weights"].taken, bench.feeds["weights"].taken[0]
    # 8 beats to the boundary at 128, 16, 16; the next request is taken as the last of them is issued.
    assert second == first + 3
    issued = [start + 1, start + 2, start + 3, start + 4, start + 5]
    assert bench.memory.bursts == [
        (issued[0] + 1, 64, 8),
        (issued[1] + 1, 128, 16),
        (issued[2] + 1, 256, 16),
        (issued[3] + 1, 4080, 2),
        (issued[4] + 1, 4096, 14),
    ]
    begin = issued[0] + 1 + latency
    assert bench.memory.returned == list(range(begin, begin + 56))
    assert bench.drains["weights"].when == list(range(begin + 1, begin + 57))


def test_stream_at_full_width():
    """With enough bursts under way for the memory's latency, one beat in every cycle."""
    config = configuration(outstanding=4)
    bench = Bench(config, {"weights": [(0, 512)]}, latency=40, depth=64)
    bench.run(until=bench.finished)
    bench.check()
    when = bench.drains["weights"].when
    assert when[-1] - when[0] == 511


def test_priority():
    """With a slow AR channel, the most urgent client that has a request goes first."""
    config = configuration()
    bench = Bench(config, {name: [(index << 12, 64)] for index, name in enumerate(CLIENTS)}, depth=64)
    bench.run(until=bench.finished)
    assert [address >> 12 for _, address, _ in bench.memory.bursts] == [0] * 4 + [1] * 4 + [2] * 4


def test_client_that_does_not_take_holds_nobody_up():
    """Its buffer is filled, no more; the less urgent clients go on. Then the rest follows."""
    config = configuration()
    requests = {"descriptors": [(0, 80)], "loads": [(1 << 20, 200)]}
    bench = Bench(config, requests, depth=40, drain_stall={"descriptors": 1.0})
    bench.run(until=lambda values: len(bench.drains["loads"].got) == 200)
    beats = sum(beats for _, address, beats in bench.memory.bursts if address < 1 << 20)
    assert beats == 32  # two bursts fit 40 beats
    assert bench.drains["descriptors"].got == []
    bench = Bench(config, requests, depth=40, drain_stall={"descriptors": 0.9})
    bench.run(until=bench.finished)
    bench.check()


@pytest.mark.parametrize("response", [SLVERR, DECERR])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_error(response, stall):
    """Only the first is reported, with its client and burst; nothing from there on reaches anybody."""
    config = configuration()
    requests = {"descriptors": [(0, 20)], "weights": [(1 << 20, 64)]}
    at = (1 << 20) + 21 * 8  # in the second burst of the weights
    bench = Bench(config, requests, stall, responses={at: response, at + 8: DECERR})
    bench.run(cycles=400)
    ((when, *what),) = bench.errors.seen
    assert what == [response == DECERR, 1, (1 << 20) + 128]
    order = [a + i * 8 for _, a, beats in bench.memory.bursts for i in range(beats)]
    good = order[: order.index(at)]
    assert when == bench.memory.returned[len(good)] + 1
    for name, base in (("descriptors", 0), ("weights", 1)):
        assert bench.drains[name].got == [bench.memory.content(a) for a in good if a >> 20 == base]
    assert all(cycle <= when for cycle, *_ in bench.memory.bursts[:-1])  # but for an AR that waits, nothing follows


class Abort(Part):
    """``aborting`` from cycle ``at`` until idle; then every client asks for something else. ``hold`` keeps channels
    blocked until ``release`` cycles into the abort."""

    def __init__(self, bench, at, after, hold=(), release=0):
        self.bench, self.at, self.after, self.hold, self.release = bench, at, after, set(hold), release
        self.ended = None
        self.waiting = 0  # AR that was valid as the abort began, and had to stay

    def step(self, now, values):
        bench = self.bench
        if now == self.at - 1:
            for feed in bench.feeds.values():
                feed.paused, feed.items = True, []
            return {"aborting": 1, **{f"{feed.port}__valid": 0 for feed in bench.feeds.values()}}
        if now == self.at:
            self.waiting = values["m_axi_arvalid"]
            self.issued = len(bench.memory.bursts) + self.waiting - (values["m_axi_arready"] & self.waiting)
        if now == max(self.at - 30, 0):
            bench.memory.blocked |= self.hold
        if now == self.at + self.release:
            bench.memory.blocked -= self.hold
        if self.ended is None and now > self.at + self.release and values["idle"]:
            assert len(bench.memory.bursts) == self.issued
            assert not bench.memory.queue
            assert not any(values[f"{name}_data__valid"] for name in CLIENTS)
            self.ended = now
            for name, drain in bench.drains.items():
                drain.got = []
                bench.feeds[name].items = packed(self.after[name])
                bench.feeds[name].paused = False
            bench.requests = self.after
            return {"aborting": 0}
        return {}


@pytest.mark.parametrize("hold", [(), ("ar",), ("r",)], ids=lambda hold: "-".join(hold) or "none")
def test_abort(hold):
    """At any time, also while AR waits and while nothing comes back: what is under way drains, and then new requests
    get their own beats."""
    config = configuration(outstanding=4)
    dice = random.Random(1)
    waited = 0
    for seed in range(6):
        first, after = (random_requests(config, dice, count, longest=30) for count in (8, 2))
        for name in CLIENTS:
            first[name].insert(0, (1 << 24, 200))
        bench = Bench(config, first, stall=dice.choice([0.0, 0.3, 0.6]), seed=seed)
        abort = Abort(bench, dice.randrange(12, 60), after, hold, release=20 if hold else 0)
        bench.run(abort, until=lambda values, abort=abort, bench=bench: abort.ended and bench.finished(values))
        bench.check()
        assert not bench.errors.seen
        waited += abort.waiting
    if hold == ("ar",):
        assert waited > 1


class Forget(Part):
    """The bus loses everything in cycle ``at``, and the master is told; then requests ``after``."""

    def __init__(self, bench, at, after):
        self.bench, self.at, self.after = bench, at, after

    def step(self, now, values):
        bench = self.bench
        if now == self.at - 1:
            for feed in bench.feeds.values():
                feed.paused, feed.items = True, []
            return {"forget": 1, **{f"{feed.port}__valid": 0 for feed in bench.feeds.values()}}
        if now == self.at:
            bench.memory.reset()
            for name, drain in bench.drains.items():
                drain.got = []
                bench.feeds[name].items = packed(self.after[name])
                bench.feeds[name].paused = False
            bench.requests = self.after
            return {"forget": 0, "m_axi_rvalid": 0}
        if now == self.at + 1:
            assert values["idle"]
            assert not values["m_axi_arvalid"]
        return {}


def test_forget():
    """A memory that answers no more does not matter after ``forget``; an error before it does not either."""
    config = configuration(outstanding=4)
    dice = random.Random(2)
    for seed in range(4):
        first, after = (random_requests(config, dice, count, longest=30) for count in (8, 2))
        bench = Bench(config, {name: [(1 << 24, 200), *first[name]] for name in CLIENTS}, 0.3, seed=seed)
        bench.memory.responses = {(1 << 24) + 8 * dice.randrange(200): DECERR}
        forget = Forget(bench, dice.randrange(12, 120), after)
        bench.run(
            forget, until=lambda values, bench=bench, after=after: bench.requests is after and bench.finished(values)
        )
        bench.check()


def test_stray_beats_are_ignored():
    config = configuration()
    bench = Bench(config, {})
    bench.parts.remove(bench.memory)
    stray = {"m_axi_rvalid": 1, "m_axi_rlast": 1, "m_axi_rresp": DECERR}
    bench.run(Play({0: stray, 3: {"m_axi_rresp": 0}}), cycles=10)
    assert not bench.errors.seen
    assert not any(drain.got for drain in bench.drains.values())


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_buffer_that_is_too_small():
    with pytest.raises(ConfigError, match=r"weights buffer = 8: must hold the longest burst; .* 16"):
        ReadMaster(configuration(), [("weights", 8)])
    gc.collect()  # now, while its warning that nothing elaborates it is ignored
