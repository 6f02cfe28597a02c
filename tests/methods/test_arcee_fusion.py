"""arcee_fusion: the other model's elements where they matter. Authority: the hand, and numpy in test_spans."""

import torch
from merging import merged, recipe_for, same_bits


def fused(folder, base, other):
    return merged(recipe_for(folder, "arcee_fusion", [{"w": other}], base={"w": base}))["w"]


def test_a_row_that_softmax_tells_apart_is_taken_and_a_shifted_one_is_not(tmp_path):
    base = torch.ones(4, 4)
    other = base.clone()
    other[0] += torch.tensor([1.0, -1, 2, -2])
    other[1] += 3  # the same softmax: no divergence, no importance
    # 12 of 16 importances are 0, so the upper quartile is a quarter of the least of row 0, and the threshold 3/8 of it
    assert torch.equal(fused(tmp_path, base, other), torch.cat([other[:1], base[1:]]))


def test_in_one_row_what_lies_one_and_a_half_ranges_beyond_the_median_is_taken(tmp_path):
    base = torch.zeros(1, 9)
    other = torch.tensor([[0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7, -0.8, 5.0]])  # quartiles 0.3, 0.5, 0.7 of the row's
    assert fused(tmp_path, base, other).tolist() == [[0.0] * 8 + [5.0]]


def test_a_tensor_that_did_not_change_stays_bit_for_bit(tmp_path):
    base = torch.tensor([[-0.0, 1.0], [0.0, 2.0]])
    assert same_bits({"w": fused(tmp_path, base, base.abs())}, {"w": base})


def test_single_and_absent_elements_pass(tmp_path):
    for i, shape in enumerate([(), (1,), (0, 3), (1, 1)]):
        base, other = torch.zeros(shape), torch.ones(shape)
        assert fused(tmp_path / str(i), base, other).shape == shape
