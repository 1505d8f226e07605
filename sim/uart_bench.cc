// Testbench around a design with the ports clk, rst, rx and tx: the other end of a UART, for sim/uart_bench.py.

#include "design.h"

#include <cstdint>

namespace {

struct Bench {
	Design design;
	uint64_t divisor;
	uint64_t cycle = 0;
	bool loops = false;

	// What is being sent: start bit, eight bits, stop bit, lowest first.
	uint32_t sending = 0, bits_to_send = 0;
	uint64_t send_wait = 0;

	// What is being received.
	uint32_t received = 0, bits_to_receive = 0;
	uint64_t receive_wait = 0;
	bool framing_error = false;

	explicit Bench(uint64_t divisor) : divisor(divisor) {}

	// One clock cycle; true when a byte is complete, which is then in `received`.
	bool step() {
		design.p_rx.set(0, bits_to_send ? sending & 1 : 1);
		if (design.settle() >= Design::SETTLE_LIMIT)
			loops = true;
		bool tx = design.p_tx.at(0) & 1;
		design.clock();
		cycle++;
		if (bits_to_send && ++send_wait == divisor)
			send_wait = 0, sending >>= 1, bits_to_send--;
		if (!bits_to_receive) {
			if (!tx)
				bits_to_receive = 10, receive_wait = divisor / 2, received = 0;
			return false;
		}
		if (--receive_wait)
			return false;
		receive_wait = divisor;
		bits_to_receive--;
		if (bits_to_receive == 0) {
			framing_error |= !tx;
			return true;
		}
		if (bits_to_receive < 9)
			received |= uint32_t(tx) << (8 - bits_to_receive);
		return false;
	}
};

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

Bench *uart_create(uint64_t divisor) { return new Bench(divisor); }
void uart_destroy(Bench *bench) { delete bench; }

void uart_reset(Bench *bench, uint64_t cycles) {
	bench->design.p_rst.set(0, 1);
	for (uint64_t i = 0; i < cycles; i++)
		bench->step();
	bench->design.p_rst.set(0, 0);
}

// Sends `count` bytes, then waits until `wanted` bytes have come or `limit` cycles have gone by. Returns how many came, -1
// after a byte without stop bit, -2 when the design does not settle.
int64_t uart_exchange(Bench *bench, const uint8_t *bytes, uint64_t count, uint8_t *answer, uint64_t wanted,
                      uint64_t limit) {
	uint64_t sent = 0, came = 0;
	for (uint64_t i = 0; i < limit && (came < wanted || sent < count || bench->bits_to_send); i++) {
		if (!bench->bits_to_send && sent < count)
			bench->sending = uint32_t(bytes[sent++]) << 1 | 0x200, bench->bits_to_send = 10, bench->send_wait = 0;
		if (bench->step() && came < wanted)
			answer[came++] = uint8_t(bench->received);
		if (bench->framing_error)
			return -1;
		if (bench->loops)
			return -2;
	}
	return int64_t(came);
}

uint64_t uart_cycles(Bench *bench) { return bench->cycle; }

}  // extern "C"
