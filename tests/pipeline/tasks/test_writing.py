"""Room for answers: how long one may be depends on its own prompt alone."""

import pytest

from pipeline.tasks.writing import Answer, Room

LIMIT = 64
ROOM = Room(left=lambda n_prompt: LIMIT + 1 - n_prompt, most_tokens=48, limit=LIMIT)


class Asked:
    """Answers with as many tokens as each row wants, and keeps what it was asked."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self.batches: list[tuple[list[int], int]] = []

    def prompt(self, row: int, reserve: int) -> list[int]:
        """One of rows + 1, and then as many as are allowed of ten times the number of the row."""
        return [row] * min(10 * row + 1, LIMIT + 1 - reserve)

    def __call__(self, prompts: list[list[int]], max_new_tokens: int) -> list[Answer]:
        self.batches.append(([len(prompt) for prompt in prompts], max_new_tokens))
        wanted = [self.lengths[prompt[0]] for prompt in prompts]
        return [Answer(ids=[n] * min(n, max_new_tokens), ended=n < max_new_tokens) for n in wanted]


def test_answers_come_in_the_order_of_rows_and_batches_are_of_similar_length() -> None:
    asked = Asked([3, 2, 1, 5])
    order = [2, 0, 3, 1]
    answers = ROOM.answers(lambda row, reserve: asked.prompt(order[row], reserve), 4, asked, batch_size=2)
    assert [list(answer.ids) for answer in answers] == [[1], [3, 3, 3], [5] * 5, [2, 2]]
    assert asked.batches == [([21, 31], 32), ([1, 11], 48)]


def test_only_an_answer_that_did_not_end_is_written_again_with_more_room() -> None:
    asked = Asked([60, 7, 3, 60, 30, 4, 10])
    answers = ROOM.answers(asked.prompt, 7, asked, batch_size=8)
    assert [len(answer.ids) for answer in answers] == [48, 7, 3, 32, 30, 4, 10]
    assert asked.batches == [
        ([51, 57], 8),
        ([41], 16),
        ([21, 31], 32),
        ([1, 11], 48),
        ([49], 16),
        ([33], 32),
    ]


@pytest.mark.parametrize("most_tokens", [1, 8, 20])
def test_no_answer_is_longer_than_asked_for(most_tokens: int) -> None:
    room = Room(left=ROOM.left, most_tokens=most_tokens, limit=LIMIT)
    answers = room.answers(Asked([99] * 7).prompt, 7, Asked([99] * 7), batch_size=3)
    assert [len(answer.ids) for answer in answers] == [most_tokens] * 7
