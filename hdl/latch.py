"""Words of register files as latches: the cells that stand for them, and when they open.

A flip-flop is two latches; words of a file that are written one at a time can share the first of them, which halves
their storage. Two ways, equal to flip-flops to the bit and to the cycle:

* *high*: ``write`` and data of cycle t are held, the data in a register in front of all words, and the word is open in
  the first half of cycle t + 1. A word may be read while it is written.
* *low*: the word is open in the second half of cycle t itself, so no register is needed. ``write`` has to settle in the
  first half of the cycle, as it does when it comes from registers, and a word must not be read while it is written.

Both gates are free of glitches: the clock closes the low one while ``write`` settles, and a latch holds the write of
the high one.
"""

from amaranth.hdl import ClockSignal, Instance, Signal

__all__ = ["LATCH_MODULES", "LATCH_VERILOG", "latch_word", "stores_in_latches"]

#: modules of :data:`LATCH_VERILOG`; synthesis puts cells of the library in their place.
LATCH_MODULES = ("mvq_open_high", "mvq_open_low", "mvq_latch_word")

LATCH_VERILOG = """\
module mvq_open_high (
  input clk,
  input write,
  output open
);
  reg held;
  always @* if (!clk) held <= write;
  assign open = clk & held;
endmodule

module mvq_open_low (
  input clk,
  input write,
  output open
);
  assign open = ~clk & write;
endmodule

module mvq_latch_word #(parameter WIDTH = 1) (
  input open,
  input [WIDTH-1:0] d,
  output reg [WIDTH-1:0] q
);
  always @* if (open) q <= d;
endmodule
"""


def stores_in_latches(platform):
    """True where ``platform`` (a :class:`~hdl.verilog.ModuleLibrary`, or None) wants register files as latches."""
    return getattr(platform, "storage", "flip_flop") == "latch"


def latch_word(m, name, write, data, *, low):
    """Signal ``name`` of latches that take ``data`` for a cycle with ``write``.

    Parameters
    ----------
    write : one bit. ``data`` : what to store; of the cycle before when not ``low``.
    low : open in the second half of the cycle with ``write``, else in the first half of the next one.
    """
    word, opened = Signal(len(data), name=name), Signal(name=f"{name}_open")
    gate = "mvq_open_low" if low else "mvq_open_high"
    m.submodules[f"{name}_gate"] = Instance(gate, i_clk=ClockSignal(), i_write=write, o_open=opened)
    m.submodules[f"{name}_latches"] = Instance("mvq_latch_word", p_WIDTH=len(data), i_open=opened, i_d=data, o_q=word)
    return word
