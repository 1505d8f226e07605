"""Write master against a memory with random stalls, errors, aborts and a bus reset; every cycle that it documents."""

import random

import pytest

from hdl.bus.write_master import WriteMaster

from .bench import (
    ADDRESS_FIELDS,
    DECERR,
    SLVERR,
    Feed,
    Part,
    Play,
    Stable,
    Watch,
    WriteMemory,
    configuration,
    packed,
    run,
)


def random_requests(config, dice, count=6, longest=60):
    """(address, beats) that do not overlap; some of one beat, and across several burst and 4 KB boundaries."""
    return [
        ((index << 16) + dice.randrange(1 << 12) * config.bus_bytes, dice.choice([1, 2, dice.randrange(1, longest)]))
        for index in range(count)
    ]


def locations(config, requests):
    """Addresses of all beats of ``requests``, in order."""
    return [at + beat * config.bus_bytes for at, beats in requests for beat in range(beats)]


class Bench:
    """A write master with its memory, client and checkers."""

    def __init__(self, config, requests, stall=0.0, latency=4, responses=None, seed=0, data_stall=None):
        self.config, self.requests = config, requests
        self.master = WriteMaster(config)
        self.memory = WriteMemory(config, stall, latency, responses, seed)
        self.dice = random.Random(seed)
        self.request_feed = Feed("request", packed(requests), stall, seed)
        self.values = self.random_data(requests)
        self.data_feed = Feed("data", self.values, stall if data_stall is None else data_stall, seed)
        self.done = Watch("done")
        self.errors = Watch("error", "error_decode", "error_address")
        forgotten = lambda values: values["forget"]  # noqa: E731
        self.parts = [
            Stable("m_axi_aw", ADDRESS_FIELDS, excused=forgotten),
            Stable("m_axi_w", ("data", "strb", "last"), excused=forgotten),
            self.memory,
            self.request_feed,
            self.data_feed,
            self.done,
            self.errors,
        ]

    def random_data(self, requests):
        width = self.config.array.stream_width
        return [self.dice.getrandbits(width) for _ in range(sum(beats for _, beats in requests))]

    def run(self, *parts, cycles=20_000, until=None):
        return run(self.master, [*self.parts, *parts], cycles, until)

    def finished(self, values):
        return len(self.done.seen) == sum(beats > 0 for _, beats in self.requests)

    def silence(self):
        """Drive for a client that disappears."""
        for feed in (self.request_feed, self.data_feed):
            feed.paused, feed.items = True, []
        return {"request__valid": 0, "data__valid": 0}

    def restart(self, requests):
        self.requests, self.values = requests, self.random_data(requests)
        self.done.seen.clear()
        self.request_feed.items, self.data_feed.items = packed(requests), list(self.values)
        self.request_feed.paused = self.data_feed.paused = False

    def written(self):
        return dict(zip(locations(self.config, self.requests), self.values, strict=True))


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize(("width", "burst_beats", "outstanding"), [(64, 16, 8), (256, 4, 1), (128, 1, 2)])
def test_random_requests(width, burst_beats, outstanding, stall):
    config = configuration(width, burst_beats, outstanding)
    for seed in range(2):
        requests = random_requests(config, random.Random(seed))
        bench = Bench(config, [*requests[:3], (0, 0), *requests[3:]], stall, seed=seed)
        bench.run(until=bench.finished)
        assert bench.memory.stored == bench.written()
        assert not bench.memory.blank
        assert not bench.errors.seen


def test_documented_cycles():
    """Request, AW, W, answers and ``done`` in the cycles that the docstring gives, without a gap between bursts and
    requests."""
    config, latency = configuration(), 9
    bench = Bench(config, [(64, 40), (4096 - 16, 16)], latency=latency)
    bench.run(until=bench.finished)
    assert bench.memory.stored == bench.written()
    first, second = bench.request_feed.taken
    begin = first + 1
    assert bench.data_feed.taken == list(range(begin, begin + 56))
    assert bench.memory.beat_cycles == list(range(begin + 1, begin + 57))
    starts = [begin + beats for beats in (0, 8, 24, 40, 42)]
    assert second == starts[2]
    assert bench.memory.bursts == [
        (starts[0] + 1, 64, 8),
        (starts[1] + 1, 128, 16),
        (starts[2] + 1, 256, 16),
        (starts[3] + 1, 4080, 2),
        (starts[4] + 1, 4096, 14),
    ]
    answers = [begin + 1 + beats - 1 + latency for beats in (8, 24, 40, 42, 56)]
    assert bench.memory.answer_cycles == answers
    assert [cycle for (cycle,) in bench.done.seen] == [answers[2] + 1, answers[4] + 1]


def test_burst_waits_for_its_first_beat():
    config = configuration()
    bench = Bench(config, [(0, 4)], data_stall=1.0)
    bench.run(cycles=50)
    assert not bench.memory.bursts
    assert bench.request_feed.taken == [0]


@pytest.mark.parametrize("response", [SLVERR, DECERR])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_error(response, stall):
    """Only the first is reported, with its burst; nothing begins and nothing is done after it."""
    config = configuration()
    requests = [(0, 20), (1 << 12, 400)]
    at = (1 << 12) + 256
    bench = Bench(config, requests, stall, responses={at: response, at + 128: DECERR})
    bench.run(cycles=600)
    ((when, *what),) = bench.errors.seen
    assert what == [response == DECERR, at]
    order = [address for _, address, _ in bench.memory.bursts]
    assert when == bench.memory.answer_cycles[order.index(at)] + 1
    assert len(bench.done.seen) == 1
    assert len(order) < 20


class Abort(Part):
    """``aborting`` from cycle ``at`` until idle, with a client that disappears; then requests ``after``. ``hold`` keeps
    channels blocked until ``release`` cycles into the abort."""

    def __init__(self, bench, at, after, hold=(), release=0):
        self.bench, self.at, self.after, self.hold, self.release = bench, at, after, set(hold), release
        self.ended = None
        self.waiting = 0  # AW that was valid as the abort began, and had to stay

    def step(self, now, values):
        bench = self.bench
        if now == self.at - 1:
            return {"aborting": 1, **bench.silence()}
        if now == max(self.at - 30, 0):
            bench.memory.blocked |= self.hold
        if now == self.at:
            self.waiting = values["m_axi_awvalid"]
            self.begun = len(bench.memory.bursts) + self.waiting
            self.before = bench.written()
        if now == self.at + self.release:
            bench.memory.blocked -= self.hold
        if now > self.at:
            assert not (values["done"] and self.ended is None and now > self.at + 1)
        if self.ended is None and now > self.at + self.release and values["idle"]:
            memory = bench.memory
            assert len(memory.bursts) in (self.begun, self.begun - 1)  # the AW may have been taken in that cycle
            assert not memory.addresses
            assert not memory.beats
            assert not memory.answers
            assert len(memory.beat_cycles) == sum(beats for *_, beats in memory.bursts)
            assert memory.stored.items() <= self.before.items()
            self.ended = now
            self.stored = dict(memory.stored)
            bench.restart(self.after)
            return {"aborting": 0}
        return {}


@pytest.mark.parametrize("hold", [(), ("aw",), ("w",), ("b",)], ids=lambda hold: "-".join(hold) or "none")
def test_abort(hold):
    """At any time, also while AW or W waits, beats are owed or answers are missing: every burst is completed, with
    nothing but what was asked for, and then new requests work."""
    config = configuration(outstanding=4)
    dice = random.Random(1)
    waited = blank = 0
    for seed in range(6):
        first, after = random_requests(config, dice, 5), [(1 << 24, 20), (1 << 25, 3)]
        data_stall = dice.choice([0.0, 0.7])
        long = (1 << 23, dice.choice([20, 150]))
        bench = Bench(config, [long, *first], dice.choice([0.0, 0.3, 0.6]), seed=seed, data_stall=data_stall)
        abort = Abort(bench, dice.randrange(8, 80), after, hold, release=20 if hold else 0)
        bench.run(abort, until=lambda values, abort=abort, bench=bench: abort.ended and bench.finished(values))
        assert bench.memory.stored == abort.stored | bench.written()
        assert not bench.errors.seen
        waited += abort.waiting
        blank += bench.memory.blank
    assert blank
    if hold == ("aw",):
        assert waited > 1


class Forget(Part):
    """The bus loses everything in cycle ``at``, and the master is told; then requests ``after``."""

    def __init__(self, bench, at, after):
        self.bench, self.at, self.after = bench, at, after

    def step(self, now, values):
        bench = self.bench
        if now == self.at - 1:
            return {"forget": 1, **bench.silence()}
        if now == self.at:
            bench.memory.reset()
            bench.restart(self.after)
            self.stored = dict(bench.memory.stored)
            return {"forget": 0, "m_axi_bvalid": 0}
        if now == self.at + 1:
            assert values["idle"]
            assert not values["m_axi_awvalid"]
            assert not values["m_axi_wvalid"]
        return {}


def test_forget():
    """A memory that answers no more does not matter after ``forget``."""
    config = configuration(outstanding=4)
    dice = random.Random(2)
    for seed in range(6):
        after = [(1 << 24, 20), (1 << 25, 3)]
        bench = Bench(config, [(1 << 23, 150), (0, 10)], 0.3, seed=seed)
        bench.memory.blocked = {dice.choice(["aw", "w", "b"])} if seed % 2 else set()
        forget = Forget(bench, dice.randrange(8, 80), after)

        def finished(values, bench=bench, forget=forget):
            if bench.requests is forget.after:
                bench.memory.blocked = set()
                return bench.finished(values)
            return False

        bench.run(forget, until=finished)
        assert bench.memory.stored == forget.stored | bench.written()


def test_stray_answers_are_ignored():
    bench = Bench(configuration(), [])
    bench.parts.remove(bench.memory)
    bench.run(Play({0: {"m_axi_bvalid": 1, "m_axi_bresp": DECERR}, 3: {"m_axi_bresp": 0}}), cycles=10)
    assert not bench.errors.seen
    assert not bench.done.seen
