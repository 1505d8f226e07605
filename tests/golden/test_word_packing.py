import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden.packing import pack_bits, pack_entries, unpack_bits, unpack_entries, word_count
from hdl.config import MvqError


def reference(values, width):
    """One big integer, cut into words."""
    whole = sum(int(value) << i * width for i, value in enumerate(values))
    return [whole >> 64 * i & (1 << 64) - 1 for i in range(-(-len(values) * width // 64))]


@given(
    st.integers(1, 64).flatmap(lambda w: st.tuples(st.just(w), st.lists(st.integers(0, (1 << w) - 1), max_size=150)))
)
def test_packing_equals_one_big_integer_and_round_trips(case):
    width, values = case
    array = np.array(values, dtype=np.uint64)
    words = pack_bits(array, width)
    assert words.dtype == np.uint64
    assert words.tolist() == reference(values, width)
    assert unpack_bits(words, width, len(values)).tolist() == values


def test_twenty_bit_entries_cross_words():
    words = pack_bits(np.array([1, 2, 3, 0xABCDE]), 20)
    assert [f"{word:016x}" for word in words.tolist()] == ["e000030000200001", "000000000000abcd"]
    assert word_count(4, 20) == 2


def test_width_zero_takes_no_words():
    assert pack_bits(np.zeros(5, np.uint8), 0).size == 0
    assert unpack_bits(np.zeros(0, np.uint64), 0, 5).tolist() == [0] * 5


@pytest.mark.parametrize(("value", "width"), [(-1, 8), (256, 8), (1, 0)])
def test_value_that_does_not_fit(value, width):
    with pytest.raises(MvqError, match=f"{value} does not fit {width} unsigned bits"):
        pack_bits(np.array([0, value]), width)


def test_bad_arguments():
    with pytest.raises(MvqError, match="must be integers, not float64"):
        pack_bits(np.array([1.0]), 4)
    with pytest.raises(MvqError, match=r"width = 65: .* nearest legal value is 64"):
        pack_bits(np.array([1]), 65)
    with pytest.raises(MvqError, match="4 values of 20 bits fill 2 words, not 1"):
        unpack_bits(np.zeros(1, np.uint64), 20, 4)
    with pytest.raises(MvqError, match="the last word holds 16 bits"):
        unpack_bits(np.array([0, 1 << 16], np.uint64), 20, 4)
    with pytest.raises(MvqError, match="must be one row of uint64"):
        unpack_bits(np.zeros((1, 2), np.uint64), 20, 4)


@given(st.lists(st.tuples(st.integers(0, 511), st.integers(0, 1819), st.integers(0, 1819)), min_size=1, max_size=20))
def test_entries_round_trip(entries):
    index, codes = np.array(entries)[:, 0], np.array(entries)[:, 1:]
    packed = pack_entries(index, codes, 9, 11)
    assert packed.tolist() == [i | a << 9 | b << 20 for i, a, b in entries]
    unpacked = unpack_entries(packed, 9, 11, 2)
    assert (unpacked[0] == index).all()
    assert (unpacked[1] == codes).all()


def test_entries_without_masks_and_too_wide():
    index = np.arange(6).reshape(2, 3)
    assert (pack_entries(index, np.zeros((2, 3, 0), int), 10, 0) == index).all()
    with pytest.raises(MvqError, match="an entry of 75 bits"):
        pack_entries(index, np.zeros((2, 3, 6), int), 9, 11)
    with pytest.raises(MvqError, match="codebook index: 4 does not fit 2"):
        pack_entries(index, np.zeros((2, 3, 1), int), 2, 11)
