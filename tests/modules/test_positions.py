import pytest
import torch

from modules.positions import ALiBi, Learned, Rotary, Sinusoidal, SinusoidalPlusLearned, sinusoids
from tests import reference


def test_sinusoids_are_those_of_the_paper():
    ours = sinusoids(torch.arange(40)[None], 12)
    torch.testing.assert_close(ours[0], reference.sinusoids(40, 12), atol=1e-5, rtol=0)


def test_sinusoidal_positions_are_added_to_the_embedding_times_the_root_of_the_width():
    x = torch.randn(2, 5, 16)
    ours = Sinusoidal(16).embed(x, torch.arange(5)[None])
    torch.testing.assert_close(ours, 4.0 * x + reference.sinusoids(5, 16))


def test_the_tutorials_positions_are_the_sinusoid_and_a_learned_vector():
    x, position = torch.randn(2, 5, 16), SinusoidalPlusLearned(16, max_seq_len=8)
    position_ids = torch.tensor([[0, 1, 2, 3, 4], [3, 4, 0, 1, 7]])
    expected = 4.0 * x + reference.sinusoids(8, 16)[position_ids] + position.embedding.weight[position_ids]
    torch.testing.assert_close(position.embed(x, position_ids), expected)


def test_rotary_equals_a_turn_of_complex_numbers():
    x, position_ids = torch.randn(2, 3, 6, 8), torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 2, 40]])
    rotation = Rotary(base=100.0).rotation(position_ids, 8)
    ours = rotation.apply(x.transpose(1, 2))
    truth = reference.rotary(x, position_ids, 100.0)
    torch.testing.assert_close(ours.transpose(1, 2), truth, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rotation.undo(ours).transpose(1, 2), x, atol=1e-5, rtol=1e-5)


def test_rotary_scores_depend_on_the_distance_alone():
    q, k, rotary = torch.randn(1, 2, 1, 16), torch.randn(1, 2, 1, 16), Rotary()

    def score(q_at: int, k_at: int) -> torch.Tensor:
        turned_q = rotary.rotation(torch.tensor([[q_at]]), 16).apply(q)
        return (turned_q * rotary.rotation(torch.tensor([[k_at]]), 16).apply(k)).sum(-1)

    torch.testing.assert_close(score(7, 3), score(104, 100), atol=1e-4, rtol=1e-4)
    assert (score(7, 3) - score(7, 4)).abs().max() > 1e-2


def test_a_rotation_keeps_the_type_and_the_length_of_vectors():
    x = torch.randn(1, 9, 2, 16)
    rotation = Rotary().rotation(torch.arange(9)[None], 16)
    torch.testing.assert_close(rotation.apply(x).norm(dim=-1), x.norm(dim=-1))
    assert rotation.apply(x.bfloat16()).dtype == torch.bfloat16


def test_alibi_slopes_are_those_of_the_paper():
    assert ALiBi(8).slopes == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert ALiBi(4).slopes == [1 / 4, 1 / 16, 1 / 64, 1 / 256]
    assert ALiBi(6).slopes == [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]


def test_alibi_lowers_scores_by_slope_times_distance_to_both_sides():
    bias = ALiBi(4).bias(torch.arange(3)[None], torch.arange(3)[None])
    assert bias[0, 0].tolist() == [[0, -0.25, -0.5], [-0.25, 0, -0.25], [-0.5, -0.25, 0]]
    torch.testing.assert_close(bias[0, 1], bias[0, 0] / 4)


def test_learned_positions_refuse_a_text_longer_than_their_table():
    with pytest.raises(
        ValueError, match=r"9 tokens exceed the positions of Learned; expected at most 8\nhint: "
    ):
        Learned(16, max_seq_len=8).embed(torch.randn(1, 9, 16), torch.arange(9)[None])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Sinusoidal(7), "d_model is 7; expected an even number"),
        (lambda: Learned(8, max_seq_len=0), "max_seq_len is 0; expected at least 1"),
        (lambda: Rotary(base=0.5), "base is 0.5; expected more than 1"),
        (lambda: ALiBi(0), "n_heads is 0; expected at least 1"),
        (
            lambda: Rotary().check(d_model=12, n_heads=4, head_size=3),
            "d_model 12 and n_heads 4 the head size is 3; expected an even head size",
        ),
        (
            lambda: ALiBi(4).check(d_model=32, n_heads=8, head_size=4),
            "but the layers have 8",
        ),
        (
            lambda: Sinusoidal(16).check(d_model=32, n_heads=4, head_size=8),
            "width 16, but the transformer has d_model 32",
        ),
        (
            lambda: Learned(16, max_seq_len=8).check(d_model=32, n_heads=4, head_size=8),
            "width 16, but the transformer",
        ),
    ],
)
def test_a_position_scheme_that_does_not_fit_is_refused_with_the_numbers(make, text):
    with pytest.raises(ValueError, match=text):
        make()
