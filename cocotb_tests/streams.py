"""Driver and monitor of a stream, for testbenches that make their own clock.

They are plain objects that one loop calls in every cycle, first ``drive`` and then, when the inputs have settled and
before the clock rises, ``sample``: a coroutine for each would take most of the simulation's time.
"""

from cocotb.handle import Immediate

from cocotb_tests.bits import binary_text, rows_of_text

__all__ = ["HIGH", "LOW", "StreamDriver", "StreamMonitor"]

LOW, HIGH = Immediate(0), Immediate(1)


class StreamDriver:
    """Offers payloads on an input stream, with random pauses before them.

    Parameters
    ----------
    dut, name : ``dut`` has the signals ``name__valid``, ``name__ready`` and ``name__payload``.
    dice : gives random numbers from 0 to 1.
    """

    def __init__(self, dut, name, dice):
        self.name, self.dice = name, dice
        self.valid, self.ready = getattr(dut, f"{name}__valid"), getattr(dut, f"{name}__ready")
        self.payload = getattr(dut, f"{name}__payload")
        self.valid.value, self.payload.value = LOW, LOW
        self.high = self.offering = False
        self.left, self.payloads, self.stall = 0, iter(()), 0.0

    def load(self, packed, stall=0.0):
        """Payloads to offer next, rows of :mod:`cocotb_tests.bits`; ``stall``: chance of a pause in each cycle."""
        self.stall = stall
        self.left, self.payloads = len(packed), binary_text(packed, len(self.payload))

    def drive(self):
        """At the beginning of a cycle: offer a payload, unless one is on offer."""
        if self.offering:
            return
        if not self.left or (self.stall and self.dice() < self.stall):
            if self.high:
                self.valid.value, self.high = LOW, False
            return
        self.payload.value = Immediate(next(self.payloads))
        if not self.high:
            self.valid.value, self.high = HIGH, True
        self.offering = True

    def sample(self):
        """At the end of a cycle: True when the payload is taken."""
        if not self.offering or self.ready.value != 1:
            return False
        self.left -= 1
        self.offering = False
        return True


class StreamMonitor:
    """Takes payloads of an output stream, with random pauses when ``stall`` is not 0; parameters as of the driver."""

    def __init__(self, dut, name, dice):
        self.name, self.dice = name, dice
        self.valid, self.ready = getattr(dut, f"{name}__valid"), getattr(dut, f"{name}__ready")
        self.payload = getattr(dut, f"{name}__payload")
        self.ready.value = HIGH
        self.willing, self.taken, self.stall = True, [], 0.0

    def expect(self, stall=0.0):
        """Begin again with nothing taken; ``stall``: chance of a pause in each cycle."""
        self.taken, self.stall, self.willing = [], stall, True
        self.ready.value = HIGH

    def drive(self):
        """At the beginning of a cycle: be ready or not."""
        if self.stall:
            self.willing = self.dice() >= self.stall
            self.ready.value = HIGH if self.willing else LOW

    def sample(self):
        """At the end of a cycle: True when a payload is taken."""
        if not self.willing or self.valid.value != 1:
            return False
        self.taken.append(str(self.payload.value))
        return True

    def packed(self):
        """What was taken, as rows of :mod:`cocotb_tests.bits`."""
        return rows_of_text("".join(self.taken), len(self.payload))
