"""L1: the activation banks."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..config import address_width
from ..verilog import place

__all__ = ["L1Bank", "L1Memory"]


class L1Bank(wiring.Component):
    """One memory of ``l1_bank_words`` words with a read and a write port.

    Latency: ``read_data`` is the word of the latest cycle with ``read``, from the cycle after it on. A read in the
    cycle of a write to the same word gives the old one.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.

    Members
    -------
    read : In(1), ``read_address`` : In, ``read_data`` : Out(word_bytes*8).
    write : In(word_vectors). Enables by vector; ``write_address`` : In, ``write_data`` : In(word_bytes*8).
    """

    module_name = "l1_bank"
    latency = 1

    def __init__(self, config):
        self.config = config
        address, width = address_width(config.l1_bank_words), config.word_bytes * 8
        super().__init__(
            {
                "read": In(1),
                "read_address": In(address),
                "read_data": Out(width),
                "write": In(config.word_vectors),
                "write_address": In(address),
                "write_data": In(width),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.memory = memory = Memory(shape=config.word_bytes * 8, depth=config.l1_bank_words, init=[])
        write, read = memory.write_port(granularity=config.vector_bytes * 8), memory.read_port()
        m.d.comb += [
            read.en.eq(self.read),
            read.addr.eq(self.read_address),
            self.read_data.eq(read.data),
            write.en.eq(self.write),
            write.addr.eq(self.write_address),
            write.data.eq(self.write_data),
        ]
        return m


class L1Memory(wiring.Component):
    """``l1_banks`` banks behind three read ports and two write ports. The high bits of a word's address choose the
    bank; a vector's address is its word's, followed by its lane in the word.

    In each cycle a bank serves one reader, the first of window, residual and store that addresses it, and one writer,
    the first of storer and load. Readers and writers of different banks, and the reader and the writer of one bank,
    never meet. ``ready`` is combinational and says that no prior port stands in the way, whether ``valid`` or not; the
    window's reads and the storer's writes are always granted.

    Latency: the data of a read that is granted in cycle t are there in cycle t + 1 only. What is written in cycle t can
    be read from cycle t + 1 on; a read of it in cycle t gives what was there before.

    Parameters
    ----------
    config : :class:`~hdl.accelerator_config.AcceleratorConfig`.

    Members
    -------
    window_read_valid : In(1), window_read_address : In(vector_address_width), window_read_data : Out(vector_bytes*8).
    residual_read_valid, residual_read_address, residual_read_data : the same; residual_read_ready : Out(1).
    store_read_valid : In(1), store_read_address : In(word_address_width), store_read_ready : Out(1),
        store_read_data : Out(word_bytes*8).
    storer_write_valid : In(1), storer_write_address : In(vector_address_width), storer_write_data : In(vector_bytes*8).
    load_write_valid : In(1), load_write_address : In(word_address_width), load_write_data : In(word_bytes*8),
        load_write_ready : Out(1).
    """

    module_name = "l1_memory"
    latency = 1

    def __init__(self, config):
        self.config = config
        vector, word = config.vector_bytes * 8, config.word_bytes * 8
        members = {}
        for client in ("window", "residual", "store"):
            whole = client == "store"
            members[f"{client}_read_valid"] = In(1)
            members[f"{client}_read_address"] = In(config.word_address_width if whole else config.vector_address_width)
            members[f"{client}_read_data"] = Out(word if whole else vector)
        members |= {
            "residual_read_ready": Out(1),
            "store_read_ready": Out(1),
            "storer_write_valid": In(1),
            "storer_write_address": In(config.vector_address_width),
            "storer_write_data": In(vector),
            "load_write_valid": In(1),
            "load_write_address": In(config.word_address_width),
            "load_write_data": In(word),
            "load_write_ready": Out(1),
        }
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        lane_bits, vector_bits = config.word_vectors.bit_length() - 1, config.vector_bytes * 8
        bank_bits = config.l1_bank_words.bit_length() - 1

        def place_of(address, lanes):
            """(bank, word in the bank, lane in the word) of an address with ``lanes`` low bits."""
            word = address[lanes:]
            return word[bank_bits:], word[:bank_bits], address[:lanes]

        window = place_of(self.window_read_address, lane_bits)
        residual = place_of(self.residual_read_address, lane_bits)
        store = place_of(self.store_read_address, 0)
        storer = place_of(self.storer_write_address, lane_bits)
        load = place_of(self.load_write_address, 0)

        def clash(valid, one, other):
            return valid & (one[0] == other[0])

        m.d.comb += [
            self.residual_read_ready.eq(~clash(self.window_read_valid, window, residual)),
            self.store_read_ready.eq(
                ~clash(self.window_read_valid, window, store) & ~clash(self.residual_read_valid, residual, store)
            ),
            self.load_write_ready.eq(~clash(self.storer_write_valid, storer, load)),
        ]
        lanes = Signal(config.word_vectors)
        m.d.comb += lanes.eq(1 << storer[2])
        banks = []
        for index in range(config.l1_banks):
            bank = place(m, platform, f"bank_{index}", L1Bank(config))
            banks.append(bank)

            def here(valid, where, index=index):
                return valid & (where[0] == index)

            reads = [
                here(self.window_read_valid, window),
                here(self.residual_read_valid, residual),
                here(self.store_read_valid, store),
            ]
            storer_here, load_here = here(self.storer_write_valid, storer), here(self.load_write_valid, load)
            m.d.comb += [
                bank.read.eq(Cat(reads).any()),
                bank.read_address.eq(Mux(reads[0], window[1], Mux(reads[1], residual[1], store[1]))),
                bank.write.eq(Mux(storer_here, lanes, load_here.replicate(config.word_vectors))),
                bank.write_address.eq(Mux(storer_here, storer[1], load[1])),
                bank.write_data.eq(
                    Mux(storer_here, self.storer_write_data.replicate(config.word_vectors), self.load_write_data)
                ),
            ]

        for client, lanes_below in (("window", lane_bits), ("residual", lane_bits), ("store", 0)):
            address, word = (
                getattr(self, f"{client}_read_address"),
                Signal(config.word_bytes * 8, name=f"{client}_word"),
            )
            read_address = Signal.like(address, name=f"{client}_address")
            bank, _, lane = place_of(read_address, lanes_below)
            m.d.sync += read_address.eq(address)
            with m.Switch(bank):
                for index in range(config.l1_banks):
                    with m.Case(index):
                        m.d.comb += word.eq(banks[index].read_data)
            read_data = getattr(self, f"{client}_read_data")
            m.d.comb += read_data.eq(word.word_select(lane, vector_bits) if lanes_below else word)
        return m
