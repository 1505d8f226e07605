"""A sparse tile beside a dense one that gets the same weights with zeros in place of the masked ones."""

import math

from amaranth.hdl import Assert, Assume, Cat, Const, Module, ResetSignal, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from hdl.codebook_lut.vector_rebuild import VectorRebuild
from hdl.config import ConfigError
from hdl.pe.arithmetic import PRODUCT_WIDTH
from hdl.pe.offset_pairs import unfold
from hdl.pe.row import position_layout, position_width, stored_positions
from hdl.pe.tile import Tile
from hdl.register_file import any_of

__all__ = ["TilePair", "check_pair"]


def check_pair(config, bits=8):
    """Raise ConfigError unless a pair can be made of ``config``, with weights and activations of so many bits."""
    if config.tile != "sparse":
        raise ConfigError("tile", config.tile, "only a sparse tile can be compared to a dense one", "sparse")
    if config.wrf_depth < 2:
        raise ConfigError("wrf_depth", config.wrf_depth, "the proof covers tiles whose WRF has several words", 2)
    if not 2 <= bits <= 8:
        raise ConfigError("bits", bits, "weights and activations must have 2 to 8", min(max(bits, 2), 8))


class TilePair(wiring.Component):
    """Both tiles, each behind the :class:`~hdl.codebook_lut.vector_rebuild.VectorRebuild` of its configuration, with
    the same inputs; assertions that they agree, and assumptions about what surrounds them.

    What is assumed, and what in the core sees to it:

    * Reset in the first cycle. Tiles start in any state.
    * A mask code is below C(M, N): the packed image has no others.
    * A row whose activation is not zero has been given weights for the word it reads: the sequencer gets a subset when
      it is loaded, and rows beyond the layer's input channels see zeros.
    * A word is not written while a vector that uses it is in the tile: the loader's ring frees a word when its last
      vector has left the array.

    What is asserted: all outputs to the right agree once they have been loaded (one step after reset), products are
    added to the same columns (two steps), and so the partial sums agree (three steps).

    Parameters
    ----------
    config : :class:`~hdl.config.ArrayConfig` that :func:`check_pair` accepts.
    weight_bits, activation_bits : narrower values than int8, sign-extended to the tiles' 8 bits.
    purpose : ``bounded``: nothing else. ``probe``: the only assertion is that no product reaches a column in every row
        at once, which must fail, or the assumptions left nothing to prove. ``induction``: also what makes the
        assertions inductive, for tiles of style ``structural`` whose multipliers and column adders are replaced by
        unknown functions (:attr:`unknown`) of which only this is assumed, that equal inputs give equal outputs.

    Members
    -------
    ``step``, ``valid``, ``address``, ``activations``, ``write_row``, ``write_address``, ``psums_in`` : In. See
        :class:`~hdl.pe.tile.Tile`. ``codes``, ``codeword`` : In. What the weights to write are rebuilt from.
    ``tap_*`` : In. To be connected to the signal inside the tiles that :attr:`taps` names.
    """

    module_name = "tile_pair"
    #: modules below this one, as shell patterns, that become unknown functions for ``induction``.
    unknown = ("*.multiplier*", "*_tile.column_*")

    def __init__(self, config, *, weight_bits=8, activation_bits=8, purpose="bounded"):
        self.config, self.purpose = config, purpose
        rows, d = config.tile_rows, config.vector_length
        #: port -> signal below this module, dots between levels.
        self.taps = {}
        ports = {
            "step": In(1),
            "valid": In(1),
            "address": In(config.entry_address_width),
            "activations": In(signed(activation_bits)).array(rows),
            "write_row": In(rows),
            "write_address": In(config.entry_address_width),
            "codes": In(config.mask_code_width).array(config.mask_groups),
            "codeword": In(signed(weight_bits)).array(d),
            "psums_in": In(config.psum_width).array(d),
        }
        for path, width in self._tapped():
            name = "tap_" + path.replace(".", "_")
            self.taps[name], ports[name] = path, In(width)
        super().__init__(ports)

    def _tapped(self):
        """(path, width) of the signals that assertions speak of."""
        config = self.config
        rows, d, sum_width = config.tile_rows, config.vector_length, config.psum_width
        for side, multipliers in (("sparse", config.multipliers_per_vector), ("dense", d)):
            for r in range(rows):
                row = f"{side}_tile.row_{r}"
                yield from ((f"{row}.contributions__{c}", PRODUCT_WIDTH) for c in range(d))
                if self.purpose != "induction":
                    continue
                for q in range(multipliers):
                    signals = {"zero": 1, "a": 8, "b": 8, "product": PRODUCT_WIDTH}
                    yield from ((f"{row}.pe_{q}.{name}", width) for name, width in signals.items())
                files = {"wrf": multipliers * 8}
                if side == "sparse":
                    files["mrf"] = position_width(config)
                    yield f"{row}.mrf.value__0", files["mrf"]
                for name, width in files.items():
                    yield from ((f"{row}.{name}.word_{word}", width) for word in range(config.wrf_depth))
            if self.purpose == "induction":
                yield f"{side}_tile.select_now", config.wrf_depth
                for c in range(d):
                    adder = f"{side}_tile.column_{c}"
                    yield from ((f"{adder}.{name}", sum_width) for name in ("base", "total"))
                    yield from ((f"{adder}.terms__{r}", PRODUCT_WIDTH) for r in range(rows))

    def _tap(self, path):
        return getattr(self, "tap_" + path.replace(".", "_"))

    def elaborate(self, platform):
        m = Module()
        config = self.config
        rows, columns = range(config.tile_rows), range(config.vector_length)
        sparse, dense = (self._tile(m, part) for part in (config, config.replace(tile="dense")))

        started = Signal(reset_less=True)
        m.d.sync += started.eq(1)
        m.d.comb += Assume(ResetSignal() | started)
        m.d.comb += [Assume(code < math.comb(config.m, config.n)) for code in self.codes]
        m.d.comb += [Assume(address < config.wrf_depth) for address in (self.address, self.write_address)]
        # The vector at the left edge, and the one whose products are added now.
        valid, address = sparse.valid_right, sparse.address_right
        valid_now, address_now = Signal(), Signal.like(address)
        with m.If(self.step):
            m.d.sync += [valid_now.eq(valid), address_now.eq(address)]
        written = [Signal(config.wrf_depth, name=f"written_{r}") for r in rows]
        for r in rows:
            with m.If(self.write_row[r]):
                m.d.sync += written[r].bit_select(self.write_address, 1).eq(1)
            idle = ~valid | (sparse.activations_right[r] == 0)
            m.d.comb += Assume(idle | written[r].bit_select(address, 1))
        for used, word in ((valid, address), (valid_now, address_now)):
            m.d.comb += Assume(~(self.write_row.any() & used & (self.write_address == word)))

        steps = Signal(range(4))  # since reset
        with m.If(self.step & (steps != 3)):
            m.d.sync += steps.eq(steps + 1)

        def contribution(side, r, c):
            return self._tap(f"{side}_tile.row_{r}.contributions__{c}")

        if self.purpose == "probe":
            zero = 1 << (PRODUCT_WIDTH - 1)
            reached = [any_of([contribution("sparse", r, c) != zero for c in columns]) for r in rows]
            m.d.comb += Assert(~(Cat(*reached).all() & valid_now & (steps == 3)))
            return m
        with m.If(steps >= 1):
            m.d.comb += [
                Assert(getattr(sparse, name) == getattr(dense, name)) for name in ("valid_right", "address_right")
            ]
            m.d.comb += Assert(Cat(*sparse.activations_right) == Cat(*dense.activations_right))
        with m.If(steps >= 2):
            m.d.comb += [
                Assert(contribution("sparse", r, c) == contribution("dense", r, c)) for r in rows for c in columns
            ]
        with m.If(steps == 3):
            m.d.comb += [Assert(sparse.psums_out[c] == dense.psums_out[c]) for c in columns]
        if self.purpose == "induction":
            m.d.comb += Assert(sparse.valid_right == dense.valid_right)
            with m.If(valid_now):
                m.d.comb += Assert(self._tap("sparse_tile.select_now") == Const(1, config.wrf_depth) << address_now)
            for r in rows:
                self._register_files(m, r, written[r])
                self._operands(m, r, steps, valid_now, written[r].bit_select(address_now, 1))
            self._unknown_functions(m)
        return m

    def _tile(self, m, config):
        """The tile of ``config`` with the pair's inputs."""
        tile, rebuild = Tile(config), VectorRebuild(config)
        m.submodules[f"{config.tile}_tile"], m.submodules[f"{config.tile}_rebuild"] = tile, rebuild
        weights = [Signal(signed(8), name=f"{config.tile}_weight_{c}") for c in range(config.vector_length)]
        m.d.comb += [wide.eq(narrow) for wide, narrow in zip(weights, self.codeword, strict=True)]
        m.d.comb += [
            rebuild.entry.eq(Cat(Const(0, config.index_width), *self.codes)),
            rebuild.codeword.eq(Cat(*weights)),
            tile.weights.eq(rebuild.weights),
            *(
                getattr(tile, name).eq(getattr(self, name))
                for name in ("step", "valid", "address", "write_row", "write_address")
            ),
            *(inner.eq(outer) for inner, outer in zip(tile.activations, self.activations, strict=True)),
            *(inner.eq(outer) for inner, outer in zip(tile.psums_in, self.psums_in, strict=True)),
        ]
        if config.tile == "sparse":
            m.d.comb += tile.offsets.eq(rebuild.offsets)
        return tile

    def _offsets(self, m, name, positions):
        """Offset of each multiplier, from a word of the MRF."""
        config, offsets, start = self.config, [], 0
        for first, count, width in position_layout(config):
            stored = positions[start : start + width]
            start += width
            own = unfold(m, f"{name}_{first}", stored, config.m - config.n + 1) if count == 2 else [stored]
            for q, value in enumerate(own, first):
                offsets.append(Signal(config.offset_width, name=f"{name}_offset_{q}"))
                m.d.comb += offsets[-1].eq(value)
        return offsets

    def _lines(self, offsets):
        """lines[q][c]: the product of multiplier q goes to column c, if its offset is the one in ``offsets``."""
        config = self.config
        lines = []
        for q in range(config.multipliers_per_vector):
            group, i = divmod(q, config.n)
            first = group * config.m + i
            lines.append(
                [
                    offsets[q] == c - first if 0 <= c - first <= config.m - config.n else Const(0)
                    for c in range(config.vector_length)
                ]
            )
        return lines

    def _register_files(self, m, r, written):
        """Every written word of the dense WRF is that of the sparse one, spread by the MRF's offsets, which ascend and
        are stored in their one form."""
        config = self.config
        for word in range(config.wrf_depth):
            few, many = (self._tap(f"{side}_tile.row_{r}.wrf.word_{word}") for side in ("sparse", "dense"))
            positions = self._tap(f"sparse_tile.row_{r}.mrf.word_{word}")
            offsets = self._offsets(m, f"row_{r}_word_{word}", positions)
            lines = self._lines(offsets)
            one_form = stored_positions(m, config, Cat(*offsets))
            with m.If(written[word]):
                m.d.comb += Assert(positions == one_form)
                for q in range(config.multipliers_per_vector):
                    m.d.comb += Assert(offsets[q] <= config.m - config.n)
                    if q % config.n:
                        m.d.comb += Assert(offsets[q] >= offsets[q - 1])
                for c in range(config.vector_length):
                    spread = [few.word_select(q, 8) & line[c].replicate(8) for q, line in enumerate(lines)]
                    m.d.comb += Assert(many.word_select(c, 8) == any_of(spread))

    def _operands(self, m, r, steps, valid_now, written_now):
        """Where a sparse multiplier has a product for a column, the dense one of that column has the same operands;
        the others are gated."""
        config = self.config
        sparse, dense = f"sparse_tile.row_{r}", f"dense_tile.row_{r}"
        lines = self._lines(self._offsets(m, f"row_{r}_read", self._tap(f"{sparse}.mrf.value__0")))
        active = [~self._tap(f"{sparse}.pe_{q}.zero") for q in range(config.multipliers_per_vector)]
        with m.If(steps >= 2):
            for c in range(config.vector_length):
                hits = [line[c] & on for line, on in zip(lines, active, strict=True)]
                m.d.comb += Assert(self._tap(f"{dense}.pe_{c}.zero") == ~any_of(hits))
                for q, hit in enumerate(hits):
                    m.d.comb += Assert(~hit | self._same_operands(sparse, q, dense, c))
            m.d.comb += Assert(~any_of(active) | (valid_now & written_now))

    def _same_operands(self, sparse, q, dense, c):
        pairs = [(self._tap(f"{sparse}.pe_{q}.{name}"), self._tap(f"{dense}.pe_{c}.{name}")) for name in "ab"]
        return (pairs[0][0] == pairs[0][1]) & (pairs[1][0] == pairs[1][1])

    def _unknown_functions(self, m):
        """Equal inputs give equal outputs, of multipliers in the same row and of adders of the same column."""
        config = self.config
        for r in range(config.tile_rows):
            sparse, dense = f"sparse_tile.row_{r}", f"dense_tile.row_{r}"
            for q in range(config.multipliers_per_vector):
                for c in range(config.vector_length):
                    products = self._tap(f"{sparse}.pe_{q}.product") == self._tap(f"{dense}.pe_{c}.product")
                    m.d.comb += Assume(~self._same_operands(sparse, q, dense, c) | products)
        inputs = ["base", *(f"terms__{r}" for r in range(config.tile_rows))]
        for c in range(config.vector_length):

            def equal(name, c=c):
                return self._tap(f"sparse_tile.column_{c}.{name}") == self._tap(f"dense_tile.column_{c}.{name}")

            m.d.comb += Assume(~Cat(*map(equal, inputs)).all() | equal("total"))
