// Testbench around a design with the flat ports clk, rst, irq, s_axi_* (AXI4-Lite, 32 bits of data) and m_axi_* (AXI4):
// host, memory and checks of the protocol in compiled code, for sim/axi_bench.py.
//
// A cycle: the inputs are driven from the bench's state, the outputs settle, transfers are those channels where valid and
// ready are high, then the clock edge. No output of the bench depends on an output of the design in the same cycle.

#include "design.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <deque>
#include <string>

namespace {

// The memory's channels, then the host's.
enum Channel { AR, R, AW, W, B, HOST_AR, HOST_R, HOST_AW, HOST_W, HOST_B, CHANNELS };
enum Response : uint32_t { OKAY = 0, SLVERR = 2, DECERR = 3 };
enum Outcome : int { LIMIT = 0, INTERRUPT = 1, VIOLATION = 2 };

constexpr uint64_t NEVER = ~uint64_t(0);
constexpr uint64_t HOST_PATIENCE = 10000;  // cycles

template<size_t Bits>
uint64_t number(const value<Bits> &port) { return port.at(0); }
template<size_t Bits>
void set(value<Bits> &input, uint64_t bits) { input.set(0, bits & ones<Bits>); }

constexpr uint64_t BEAT = decltype(Design::p_m__axi__rdata)::bits / 8;  // bytes
using Data = value<8 * BEAT>;

// Random choices, the same for the same seed.
struct Dice {
	uint64_t state = 1;
	bool below(uint32_t threshold) {
		state ^= state << 13, state ^= state >> 7, state ^= state << 17;
		return uint32_t(state >> 32) < threshold;
	}
};

// What the design's side of a channel showed in the last cycle without being taken: it must stay.
struct Held {
	bool waiting = false;
	uint64_t fields[4] = {};
	Data data;
};

struct Burst {
	uint64_t address, beats, number, done, due;
	uint32_t id, response;
};

// An answer of the design to the host.
struct Answer {
	bool waiting = false;  // shown in the last cycle and not taken
	uint64_t field = 0;
};

struct WriteBeat {
	Data data;
	uint64_t strobe;
	bool last;
};

// Faults of one direction, by the number of the burst since the bench was made.
struct Faults {
	uint64_t error_burst = NEVER, error_beat = 0, stop_burst = NEVER;
	uint32_t error_response = OKAY;
};

struct Bench {
	Design design;
	uint8_t *memory;
	uint64_t bytes, origin;
	uint64_t read_latency = 1, write_latency = 1;
	uint32_t pause[CHANNELS] = {};
	Dice dice;
	Faults read_faults, write_faults;

	uint64_t cycle = 0;
	uint64_t read_bursts = 0, read_beats = 0, write_bursts = 0, write_beats = 0;
	std::deque<Burst> reads, writes, answers;  // to be read, to be written, written
	std::deque<WriteBeat> beats;
	bool read_shown = false, answer_shown = false;
	Held held[CHANNELS];
	std::string violation;

	bool interrupt = false;

	// The host's side of s_axi: what is to be sent or taken, and what is driven in this cycle.
	bool sends_aw = false, sends_w = false, sends_ar = false, wants_b = false, wants_r = false;
	bool aw_valid = false, w_valid = false, ar_valid = false, b_ready = false, r_ready = false;
	Answer answer_b, answer_r;
	uint32_t host_data = 0, host_response = 0;

	Bench(uint8_t *memory, uint64_t bytes, uint64_t origin) : memory(memory), bytes(bytes), origin(origin) {}

	void fail(const char *format, ...) __attribute__((format(printf, 2, 3))) {
		if (!violation.empty())
			return;
		char text[256], whole[320];
		va_list arguments;
		va_start(arguments, format);
		vsnprintf(text, sizeof text, format, arguments);
		va_end(arguments);
		snprintf(whole, sizeof whole, "cycle %llu: %s", (unsigned long long)cycle, text);
		violation = whole;
	}

	bool pauses(Channel channel) { return pause[channel] && dice.below(pause[channel]); }

	// ---- Memory.

	uint32_t response_of(uint64_t address, uint64_t beats) const {
		bool inside = address >= origin && address + beats * BEAT <= origin + bytes;
		return inside ? OKAY : DECERR;
	}

	static uint32_t response_of_beat(const Burst &burst, const Faults &faults) {
		bool wrong = burst.number == faults.error_burst && burst.done >= faults.error_beat;
		return wrong ? faults.error_response : burst.response;
	}

	void show_read() {
		const Burst &burst = reads.front();
		uint32_t response = response_of_beat(burst, read_faults);
		Data data;
		if (burst.response == OKAY)
			memcpy(&data.data, memory + (burst.address - origin) + burst.done * BEAT, BEAT);
		design.p_m__axi__rdata = data;
		set(design.p_m__axi__rid, burst.id);
		set(design.p_m__axi__rresp, response);
		set(design.p_m__axi__rlast, burst.done + 1 == burst.beats);
	}

	void drive_memory() {
		// A memory that has stopped accepts the burst that it does not answer, and no other.
		bool reads_stopped = read_bursts > read_faults.stop_burst, writes_stopped = write_bursts > write_faults.stop_burst;
		set(design.p_m__axi__arready, !reads_stopped && !pauses(AR));
		set(design.p_m__axi__awready, !writes_stopped && !pauses(AW));
		set(design.p_m__axi__wready, !writes_stopped && !pauses(W));
		if (!read_shown && !reads.empty() && reads.front().due <= cycle && reads.front().number < read_faults.stop_burst &&
		    !pauses(R)) {
			read_shown = true;
			show_read();
		}
		set(design.p_m__axi__rvalid, read_shown);
		if (!answer_shown && !answers.empty() && answers.front().due <= cycle &&
		    answers.front().number < write_faults.stop_burst && !pauses(B)) {
			answer_shown = true;
			set(design.p_m__axi__bid, answers.front().id);
			set(design.p_m__axi__bresp, response_of_beat(answers.front(), write_faults));
		}
		set(design.p_m__axi__bvalid, answer_shown);
	}

	// Checks that what was shown and not taken in the last cycle is still there; returns whether it is taken now.
	bool transfer(Channel channel, const char *name, bool valid, bool ready, const uint64_t (&fields)[4], const Data *data) {
		Held &before = held[channel];
		if (before.waiting && !valid)
			fail("m_axi_%svalid fell before m_axi_%sready was high", name, name);
		else if (before.waiting && (memcmp(before.fields, fields, sizeof fields) || (data && before.data != *data)))
			fail("m_axi_%s changed while it waited for m_axi_%sready", name, name);
		before.waiting = valid && !ready;
		if (before.waiting) {
			memcpy(before.fields, fields, sizeof fields);
			if (data)
				before.data = *data;
		}
		return valid && ready;
	}

	Burst burst_of(const char *name, const uint64_t (&fields)[4], uint32_t id, uint64_t count) {
		uint64_t address = fields[0], beats = fields[1] + 1, size = fields[2], type = fields[3];
		if ((uint64_t(1) << size) != BEAT)
			fail("m_axi_%ssize is %llu, but a beat has %llu bytes", name, (unsigned long long)size, (unsigned long long)BEAT);
		if (type != 1)
			fail("m_axi_%sburst is %llu: only incrementing bursts (1) are supported", name, (unsigned long long)type);
		if (address % BEAT)
			fail("m_axi_%saddr %#llx is not a multiple of a beat", name, (unsigned long long)address);
		if (address % 4096 + beats * BEAT > 4096)
			fail("the burst of %llu beats at m_axi_%saddr %#llx crosses a 4 KB boundary", (unsigned long long)beats, name,
			     (unsigned long long)address);
		return {address, beats, count, 0, 0, id, response_of(address, beats)};
	}

	void sample_reads() {
		const uint64_t fields[4] = {number(design.p_m__axi__araddr), number(design.p_m__axi__arlen),
		                            number(design.p_m__axi__arsize), number(design.p_m__axi__arburst)};
		if (transfer(AR, "ar", number(design.p_m__axi__arvalid), number(design.p_m__axi__arready), fields, nullptr)) {
			reads.push_back(burst_of("ar", fields, uint32_t(number(design.p_m__axi__arid)), read_bursts++));
			reads.back().due = cycle + read_latency;
		}
		if (read_shown && number(design.p_m__axi__rready)) {
			read_shown = false;
			read_beats++;
			if (++reads.front().done == reads.front().beats)
				reads.pop_front();
		}
	}

	void store(Burst &burst, const WriteBeat &beat) {
		bool last = burst.done + 1 == burst.beats;
		if (beat.last != last)
			fail("m_axi_wlast is %d in beat %llu of a burst of %llu at %#llx", beat.last, (unsigned long long)burst.done + 1,
			     (unsigned long long)burst.beats, (unsigned long long)burst.address);
		bool answered = burst.number < write_faults.stop_burst;
		if (answered && response_of_beat(burst, write_faults) == OKAY && violation.empty()) {
			uint8_t *target = memory + (burst.address - origin) + burst.done * BEAT;
			uint8_t bytes_of_beat[BEAT];
			memcpy(bytes_of_beat, &beat.data.data, BEAT);
			for (uint64_t i = 0; i < BEAT; i++)
				if (beat.strobe >> i & 1)
					target[i] = bytes_of_beat[i];
		}
		if (!last)
			burst.done++;
	}

	void sample_writes() {
		const uint64_t fields[4] = {number(design.p_m__axi__awaddr), number(design.p_m__axi__awlen),
		                            number(design.p_m__axi__awsize), number(design.p_m__axi__awburst)};
		if (transfer(AW, "aw", number(design.p_m__axi__awvalid), number(design.p_m__axi__awready), fields, nullptr))
			writes.push_back(burst_of("aw", fields, uint32_t(number(design.p_m__axi__awid)), write_bursts++));

		const Data &data = design.p_m__axi__wdata;
		const uint64_t beat[4] = {number(design.p_m__axi__wstrb), number(design.p_m__axi__wlast)};
		if (transfer(W, "w", number(design.p_m__axi__wvalid), number(design.p_m__axi__wready), beat, &data)) {
			beats.push_back({data, beat[0], beat[1] != 0});
			write_beats++;
		}
		while (!writes.empty() && !beats.empty()) {
			Burst &burst = writes.front();
			bool last = burst.done + 1 == burst.beats;
			store(burst, beats.front());
			beats.pop_front();
			if (last) {
				burst.due = cycle + write_latency;
				answers.push_back(burst);
				writes.pop_front();
			}
		}
		if (answer_shown && number(design.p_m__axi__bready)) {
			answer_shown = false;
			answers.pop_front();
		}
	}

	// ---- Host.

	void drive_host() {
		aw_valid = sends_aw && (aw_valid || !pauses(HOST_AW));
		w_valid = sends_w && (w_valid || !pauses(HOST_W));
		ar_valid = sends_ar && (ar_valid || !pauses(HOST_AR));
		b_ready = wants_b && !pauses(HOST_B);
		r_ready = wants_r && !pauses(HOST_R);
		set(design.p_s__axi__awvalid, aw_valid);
		set(design.p_s__axi__wvalid, w_valid);
		set(design.p_s__axi__bready, b_ready);
		set(design.p_s__axi__arvalid, ar_valid);
		set(design.p_s__axi__rready, r_ready);
	}

	// `asked`: the design has all that it answers. Returns whether the answer is taken now.
	bool take(Answer &answer, const char *name, bool valid, bool ready, bool asked, uint64_t field) {
		if (answer.waiting && !valid)
			fail("s_axi_%svalid fell before s_axi_%sready was high", name, name);
		else if (answer.waiting && field != answer.field)
			fail("s_axi_%s changed while it waited for s_axi_%sready", name, name);
		else if (valid && !asked)
			fail("s_axi_%svalid is high, but nothing was asked for", name);
		answer = {valid && !ready, field};
		return valid && ready;
	}

	void sample_host() {
		bool b_asked = wants_b && !sends_aw && !sends_w, r_asked = wants_r && !sends_ar;
		uint64_t b_field = number(design.p_s__axi__bresp);
		uint64_t r_field = number(design.p_s__axi__rdata) << 2 | number(design.p_s__axi__rresp);
		if (take(answer_b, "b", number(design.p_s__axi__bvalid), b_ready, b_asked, b_field)) {
			wants_b = false;
			host_response = uint32_t(b_field);
		}
		if (take(answer_r, "r", number(design.p_s__axi__rvalid), r_ready, r_asked, r_field)) {
			wants_r = false;
			host_response = uint32_t(r_field & 3);
			host_data = uint32_t(r_field >> 2);
		}
		sends_aw &= !(aw_valid && number(design.p_s__axi__awready));
		sends_w &= !(w_valid && number(design.p_s__axi__wready));
		sends_ar &= !(ar_valid && number(design.p_s__axi__arready));
	}

	// ---- Cycles.

	void step() {
		drive_memory();
		drive_host();
		if (design.settle() >= Design::SETTLE_LIMIT)
			fail("the design does not settle: it has a combinational loop");
		interrupt = number(design.p_irq);
		sample_reads();
		sample_writes();
		sample_host();
		design.clock();
		cycle++;
	}

	// The bus is reset with the design: what is under way is forgotten.
	void reset(uint64_t cycles) {
		set(design.p_rst, 1);
		for (uint64_t i = 0; i < cycles; i++, cycle++) {
			forget();
			drive_memory();
			drive_host();
			design.settle();
			design.clock();
		}
		set(design.p_rst, 0);
	}

	void forget() {
		reads.clear(), writes.clear(), answers.clear(), beats.clear();
		read_shown = answer_shown = false;
		for (Held &channel : held)
			channel.waiting = false;
		sends_aw = sends_w = sends_ar = wants_b = wants_r = false;
		answer_b = answer_r = Answer();
	}

	int run(uint64_t cycles, bool until_interrupt) {
		for (uint64_t i = 0; i < cycles; i++) {
			step();
			if (!violation.empty())
				return VIOLATION;
			if (until_interrupt && interrupt)
				return INTERRUPT;
		}
		return LIMIT;
	}

	int wait_for_host(const char *what, uint64_t address) {
		for (uint64_t i = 0; (wants_b || wants_r) && violation.empty(); i++) {
			if (i == HOST_PATIENCE)
				fail("no answer on s_axi to the %s of register %#llx", what, (unsigned long long)address);
			else
				step();
		}
		if (host_response != OKAY)
			fail("the %s of register %#llx was answered with an error (%u)", what, (unsigned long long)address,
			     host_response);
		return violation.empty() ? LIMIT : VIOLATION;
	}

	int write_register(uint32_t address, uint32_t data) {
		set(design.p_s__axi__awaddr, address);
		set(design.p_s__axi__wdata, data);
		set(design.p_s__axi__wstrb, 0xf);
		sends_aw = sends_w = wants_b = true;
		return wait_for_host("write", address);
	}

	int read_register(uint32_t address, uint32_t *data) {
		set(design.p_s__axi__araddr, address);
		sends_ar = wants_r = true;
		int outcome = wait_for_host("read", address);
		*data = host_data;
		return outcome;
	}
};

}  // namespace

// ---- C interface of sim/axi_bench.py.

#pragma GCC visibility push(default)
extern "C" {

Bench *bench_create(uint8_t *memory, uint64_t bytes, uint64_t origin) { return new Bench(memory, bytes, origin); }
void bench_destroy(Bench *bench) { delete bench; }
void bench_reset(Bench *bench, uint64_t cycles) { bench->reset(cycles); }

void bench_memory(Bench *bench, uint8_t *memory, uint64_t bytes, uint64_t origin) {
	bench->memory = memory, bench->bytes = bytes, bench->origin = origin;
}

void bench_timing(Bench *bench, uint64_t read_latency, uint64_t write_latency) {
	bench->read_latency = read_latency, bench->write_latency = write_latency;
}

// `pause`: for each channel, the chance of a pause in a cycle in units of 2**-32.
void bench_pauses(Bench *bench, const uint32_t *pause, uint64_t seed) {
	memcpy(bench->pause, pause, sizeof bench->pause);
	bench->dice.state = seed * 0x9e3779b97f4a7c15u + 1;
}

void bench_error(Bench *bench, int write, uint64_t burst, uint64_t beat, uint32_t response) {
	Faults &faults = write ? bench->write_faults : bench->read_faults;
	faults.error_burst = (write ? bench->write_bursts : bench->read_bursts) + burst;
	faults.error_beat = beat, faults.error_response = response;
}

void bench_stop(Bench *bench, int write, uint64_t burst) {
	(write ? bench->write_faults : bench->read_faults).stop_burst =
		(write ? bench->write_bursts : bench->read_bursts) + burst;
}

// Ends all faults; `forget`: what was under way is never answered.
void bench_resume(Bench *bench, int forget) {
	bench->read_faults = bench->write_faults = Faults();
	if (forget)
		bench->forget();
}

int bench_run(Bench *bench, uint64_t cycles, int until_interrupt) { return bench->run(cycles, until_interrupt); }
int bench_write_register(Bench *bench, uint32_t address, uint32_t data) { return bench->write_register(address, data); }
int bench_read_register(Bench *bench, uint32_t address, uint32_t *data) { return bench->read_register(address, data); }
int bench_interrupt(const Bench *bench) { return bench->interrupt; }

// cycles, read bursts, read beats, write bursts, write beats.
void bench_counts(const Bench *bench, uint64_t *counts) {
	counts[0] = bench->cycle, counts[1] = bench->read_bursts, counts[2] = bench->read_beats;
	counts[3] = bench->write_bursts, counts[4] = bench->write_beats;
}

const char *bench_violation(const Bench *bench) { return bench->violation.c_str(); }
}
