"""Numbers and texts as people read them."""

import pytest

from pipeline.words import clock, count, shorten


@pytest.mark.parametrize(
    ("number", "text"),
    [
        *(
            (0, "0"),
            (950, "950"),
            (9536, "9,536"),
            (24_800, "24.8 k"),
            (4_712_000, "4.7 M"),
            (1.25e9, "1.2 G"),
        ),
        *((2e12, "2.0 T"), (3.1e18, "3.10e+18")),
    ],
)
def test_a_number_is_written_as_people_say_it(number: float, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (750, "12:30"), (11_100, "3:05:00")])
def test_durations_look_like_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_text_that_is_too_long_ends_in_an_ellipsis() -> None:
    assert (shorten("lantern", 7), shorten("lantern", 6)) == ("lantern", "lante…")
