"""Products and column sums, as operators or as explicit bit heaps of full and half adders.

Products are in **offset binary**: product + 2**15, an unsigned 16-bit number. Sums of them need no sign extension, and
the Baugh-Wooley constant 2**15 drops out of every multiplier; the constant ``rows * 2**15`` that each column sum then
carries is taken away once, where partial sums enter the top of the array.
"""

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..verilog import place

__all__ = ["PRODUCT_WIDTH", "Adder", "FullAdder", "HalfAdder", "Multiplier", "reduce_heap"]

#: bits of a product of an 8-bit activation and an 8-bit weight.
PRODUCT_WIDTH = 16


class FullAdder(wiring.Component):
    """``2*co + s = a + b + ci``; synthesis maps it to the library's full-adder cell where there is one.
    Combinational."""

    module_name = "mvq_full_adder"
    latency = 0

    def __init__(self):
        super().__init__({"a": In(1), "b": In(1), "ci": In(1), "s": Out(1), "co": Out(1)})

    def elaborate(self, platform):
        m = Module()
        half = self.a ^ self.b
        m.d.comb += [self.s.eq(half ^ self.ci), self.co.eq((self.a & self.b) | (half & self.ci))]
        return m


class HalfAdder(wiring.Component):
    """``2*co + s = a + b``; see :class:`FullAdder`. Combinational."""

    module_name = "mvq_half_adder"
    latency = 0

    def __init__(self):
        super().__init__({"a": In(1), "b": In(1), "s": Out(1), "co": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.s.eq(self.a ^ self.b), self.co.eq(self.a & self.b)]
        return m


def reduce_heap(m, platform, heap, width, *, ripple=True):
    """Sum of a bit heap, modulo ``2**width``.

    Parameters
    ----------
    heap : list of bits for each weight 2**0, 2**1, ...; a bit is a one-bit value or the integer 1.
    width : bits of the result.
    ripple : adder cells to the end, which takes the least area; else they leave two rows in Dadda's order, and an
        operator adds those, which synthesis can make fast.

    Returns
    -------
    Value of ``width`` bits. Bits that arrive first are added first, so that the ripple of one column overlaps the next.
    """
    columns = [[(0, bit) for bit in column] for column in heap[:width]]
    columns += [[] for _ in range(width - len(columns))]
    count = 0
    for height in (1,) if ripple else (13, 9, 6, 4, 3, 2):  # bits that a column keeps
        for position, column in enumerate(columns):
            carries = columns[position + 1] if position + 1 < width else []
            count = _reduce_column(m, platform, column, carries, height, position, count)
    rows = [
        Cat(*(Value.cast(column[row][1]) if row < len(column) else Const(0, 1) for column in columns)) for row in (0, 1)
    ]
    return rows[0] if ripple else (rows[0] + rows[1])[:width]


def _reduce_column(m, platform, column, carries, height, position, count):
    """Reduce ``column``, a list of (time, bit), to ``height`` bits; what it carries goes to ``carries``.

    Returns ``count``, which numbers adder cells, raised by those that are placed.
    """
    ones = [item for item in column if isinstance(item[1], int)]
    bits = [item for item in column if not isinstance(item[1], int)]
    for _ in range(len(ones) // 2):  # two constants make one constant of the next weight
        carries.append((0, 1))
    ones = len(ones) % 2
    while len(bits) + ones > height:
        bits.sort(key=lambda item: item[0])
        if ones and len(bits) >= 2:  # a + b + 1 needs no adder cell
            (time_a, a), (time_b, b) = bits[:2]
            bits, ones, time = bits[2:], 0, max(time_a, time_b) + 1
            bits.append((time, ~(a ^ b)))
            carries.append((time, a | b))
            continue
        if ones:  # a + 1
            (time, a) = bits.pop()
            ones = 0
            bits.append((time, ~a))
            carries.append((time, a))
            continue
        inputs = bits[:3] if len(bits) > height + 1 or height == 1 else bits[:2]
        adder = FullAdder() if len(inputs) == 3 else HalfAdder()
        place(m, platform, f"add_{position}_{count}", adder)
        count += 1
        ports = (adder.a, adder.b, adder.ci) if len(inputs) == 3 else (adder.a, adder.b)
        m.d.comb += [port.eq(bit) for port, (_, bit) in zip(ports, inputs, strict=True)]
        time = max(time for time, _ in inputs) + 2
        bits = [*bits[len(inputs) :], (time, adder.s)]
        carries.append((time, adder.co))
    column[:] = [*bits, *[(0, 1)] * ones]
    return count


class Multiplier(wiring.Component):
    """Signed 8x8 multiplier, product in offset binary: ``product = a*b + 2**15``. Combinational.

    Parameters
    ----------
    style : ``behavioural`` or ``structural`` (modified Baugh-Wooley without its constant 2**15).

    Members
    -------
    a, b : In(signed(8)).
    product : Out(16).
    """

    latency = 0

    def __init__(self, style):
        self.style = style
        self.module_name = "multiplier"
        super().__init__({"a": In(signed(8)), "b": In(signed(8)), "product": Out(PRODUCT_WIDTH)})

    def elaborate(self, platform):
        m = Module()
        if self.style == "behavioural":
            product = Signal(signed(PRODUCT_WIDTH))
            m.d.comb += [product.eq(self.a * self.b), self.product.eq(product ^ (1 << (PRODUCT_WIDTH - 1)))]
            return m
        heap = [[] for _ in range(PRODUCT_WIDTH)]
        for i in range(8):
            for j in range(8):
                bit = self.a[i] & self.b[j]
                heap[i + j].append(~bit if (i == 7) != (j == 7) else bit)
        heap[8].append(1)
        m.d.comb += self.product.eq(reduce_heap(m, platform, heap, PRODUCT_WIDTH))
        return m


class Adder(wiring.Component):
    """``total = base + sum(terms)`` modulo ``2**width``, terms unsigned. Combinational.

    Parameters
    ----------
    terms, term_width : number of terms and bits of each.
    width : bits of ``base`` and of ``total``.
    style : ``behavioural`` or ``structural``.
    """

    latency = 0

    def __init__(self, terms, term_width, width, style):
        self.terms_count, self.term_width, self.width, self.style = terms, term_width, width, style
        self.module_name = f"adder_{terms}x{term_width}_{width}"
        super().__init__({"terms": In(term_width).array(terms), "base": In(width), "total": Out(width)})

    def elaborate(self, platform):
        m = Module()
        if self.style == "behavioural":
            m.d.comb += self.total.eq(sum((self.terms[i] for i in range(self.terms_count)), self.base))
            return m
        heap = [[self.base[bit]] for bit in range(self.width)]
        for term in range(self.terms_count):
            for bit in range(min(self.term_width, self.width)):
                heap[bit].append(self.terms[term][bit])
        m.d.comb += self.total.eq(reduce_heap(m, platform, heap, self.width))
        return m
