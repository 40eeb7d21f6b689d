import pytest
import torch

from modules.masks import Mask

SEGMENTS = torch.tensor([[1, 1, 2, 0]])


def pairs(mask: Mask, n_queries: int = 4, n_keys: int = 4) -> list[list[int]]:
    """1 where the query may look at the key."""
    added = mask.additive(n_queries, n_keys, torch.zeros(()))
    allowed = torch.ones(n_queries, n_keys, dtype=torch.bool) if added is None else added[0, 0] > -torch.inf
    if mask.alive is not None:
        allowed = allowed & mask.alive[0, 0]
    return allowed.expand(n_queries, n_keys).int().tolist()


def test_the_empty_mask_hides_nothing():
    assert pairs(Mask()) == [[1] * 4] * 4


def test_the_past_is_causal_and_needs_no_tensor():
    assert pairs(Mask.past()) == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert Mask.past() == Mask(causal=True)
    assert (Mask.past() & Mask()) == Mask.past()


def test_segments_see_themselves_alone_and_no_query_is_blind():
    assert pairs(Mask.segments(SEGMENTS)) == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_the_past_of_a_segment_is_both_masks_joined():
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert pairs(Mask.past() & Mask.segments(SEGMENTS)) == expected
    assert pairs(Mask.segments(SEGMENTS) & Mask.past()) == expected


def test_two_segment_masks_joined_allow_what_both_allow():
    other = Mask.segments(torch.tensor([[1, 2, 2, 2]]))
    assert pairs(Mask.segments(SEGMENTS) & other) == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_continued_tokens_see_the_cache_and_their_own_past():
    mask = Mask.continued(torch.tensor([[1, 1]]), torch.tensor([[0, 1, 1, 1]]))
    assert pairs(mask, 2) == [[0, 1, 1, 0], [0, 1, 1, 1]]


def test_a_prompt_or_a_token_of_one_segment_needs_no_tensor_and_sees_the_same():
    cached = torch.ones(1, 4, dtype=torch.long)
    for n_new, mask in ((4, Mask.past()), (1, Mask())):
        found = Mask.continued(cached[:, :n_new], cached, one_segment=True)
        assert found == mask
        assert pairs(found, n_new) == pairs(Mask.continued(cached[:, :n_new], cached), n_new)
    assert Mask.continued(cached[:, :2], cached, one_segment=True).allowed is not None


def test_cross_attention_does_not_see_padding_of_the_memory():
    assert pairs(Mask.memory(SEGMENTS), 2) == [[1, 1, 1, 0]] * 2


def test_cross_attention_of_packed_rows_stays_in_the_document_and_padding_sees_nothing():
    mask = Mask.across(torch.tensor([[1, 2, 3, 0]]), SEGMENTS)
    assert pairs(mask) == [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_a_bias_is_kept_where_the_mask_allows_and_is_minus_infinity_elsewhere():
    bias = torch.arange(16.0).reshape(1, 1, 4, 4)
    mask = Mask.past().with_bias(bias)
    assert mask.bias is not None
    assert torch.equal(mask.bias.isinf()[0, 0], ~torch.ones(4, 4, dtype=torch.bool).tril())
    assert torch.equal(mask.bias.masked_fill(mask.bias.isinf(), 0), bias.tril())
    assert mask.causal


def test_masks_of_cross_attention_are_not_joined():
    with pytest.raises(ValueError, match="expected two masks for self-attention"):
        Mask.past() & Mask.memory(SEGMENTS)


def test_layers_share_the_tensor_that_is_added_to_the_scores():
    scores = torch.zeros(2, 1, 4, 4)
    for mask in (Mask.past(), Mask.segments(SEGMENTS), Mask.past() & Mask.segments(SEGMENTS)):
        added = mask.additive(4, 4, scores)
        assert added is mask.additive(4, 4, scores)
        half = mask.additive(4, 4, scores.bfloat16())
        assert half is not None
        assert half.dtype == torch.bfloat16
        assert torch.equal(half.isinf(), added.isinf())
    assert Mask.past().additive(1, 4, scores).isinf().sum() == 0


def test_a_shared_tensor_fits_the_device_and_a_learned_bias_keeps_its_gradient():
    scores, mask = torch.zeros(2, 1, 4, 4), Mask.past()
    mask.additive(4, 4, scores.to("meta"))
    assert mask.additive(4, 4, scores).device.type == "cpu"
    mask = Mask.past()
    with torch.inference_mode():
        mask.additive(4, 4, scores)
    assert not mask.additive(4, 4, scores).is_inference()
    bias = torch.zeros(1, 1, 4, 4, requires_grad=True)
    learned = Mask.past().with_bias(bias)
    with torch.no_grad():
        learned.additive(4, 4, scores.bfloat16())
    assert learned.additive(4, 4, scores.bfloat16()).requires_grad
