import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden.masks import decode_masks, encode_masks, mask_code_width, mask_positions
from hdl.config import MvqError


def test_code_widths_are_the_papers():
    assert [mask_code_width(n, m) for n, m in ((4, 16), (3, 16), (2, 16), (1, 2), (2, 4), (16, 16))] == [
        11,
        10,
        7,
        1,
        3,
        0,
    ]


def test_all_1820_masks_of_4_16_in_colexicographic_order():
    positions = sorted(itertools.combinations(range(16), 4), key=lambda chosen: chosen[::-1])
    masks = np.zeros((1820, 16), dtype=bool)
    masks[np.arange(1820)[:, None], np.array(positions)] = True
    codes = encode_masks(masks, 4)
    assert codes.dtype == np.uint16
    assert codes.tolist() == list(range(1820))
    assert (decode_masks(codes, 4, 16) == masks).all()
    assert mask_positions(codes, 4, 16).tolist() == [list(chosen) for chosen in positions]


@given(st.integers(1, 32).flatmap(lambda m: st.tuples(st.integers(1, m), st.just(m))), st.data())
def test_every_code_round_trips(shape, data):
    n, m = shape
    codes = data.draw(st.lists(st.integers(0, math.comb(m, n) - 1), min_size=1, max_size=20))
    masks = decode_masks(np.array(codes), n, m)
    assert (masks.sum(axis=-1) == n).all()
    assert encode_masks(masks, n).tolist() == codes


def test_shapes_and_the_widest_group():
    codes = np.array([[0, math.comb(64, 32) - 1]], dtype=np.uint64)
    masks = decode_masks(codes, 32, 64)
    assert masks.shape == (1, 2, 64)
    assert (encode_masks(masks, 32) == codes).all()
    assert encode_masks(np.ones((3, 8), bool), 8).tolist() == [0, 0, 0]


def test_wrong_count_of_ones():
    masks = np.zeros((2, 3, 16), bool)
    masks[..., :4] = True
    masks[1, 2, 9] = True
    with pytest.raises(MvqError, match=r"mask \(1, 2\) has 5 ones of 16, not n = 4"):
        encode_masks(masks, 4)


@pytest.mark.parametrize("code", [1820, -1])
def test_code_out_of_range(code):
    with pytest.raises(MvqError, match=f"mask code {code} at .0,.: 4:16 has the codes 0 to 1819"):
        decode_masks(np.array([code]), 4, 16)


def test_illegal_pattern():
    with pytest.raises(MvqError, match="n = 5: must be 1 to m = 4; the nearest legal value is 4"):
        mask_code_width(5, 4)
    with pytest.raises(MvqError, match="m = 65: must be 1 to 64"):
        mask_code_width(1, 65)
