"""What of a growing text may be sent, when a stop string may end it."""

import pytest

from service.api.openai_completions import StopStringFilter, TextToken


def sent(pieces: list[str], *stops: str, stopped: bool) -> list[str]:
    parting, found = StopStringFilter(stops), []
    for place, piece in enumerate(pieces):
        last = place == len(pieces) - 1
        found.append(parting.feed([TextToken(piece, None, ())], stopped=last and stopped, ended=last)[0])
    return found


def test_what_may_become_a_stop_string_is_held_back_and_sent_if_it_does_not() -> None:
    assert sent(["a", "E", "N", "x"], "END", stopped=False) == ["a", "", "", "ENx"]
    assert sent(["a", "E", "N", "D"], "END", stopped=True) == ["a", "", "", ""]
    assert sent(["a", "E", "N"], "END", stopped=False) == ["a", "", "EN"]


def test_a_beginning_within_a_beginning_is_not_lost() -> None:
    assert sent(list("xaab"), "aab", stopped=True) == ["x", "", "", ""]
    assert sent(list("aaab"), "aab", stopped=True) == ["", "", "a", ""]


def test_a_text_ends_before_the_first_of_its_stop_strings() -> None:
    assert sent(list("xab"), "b", "ab", stopped=True) == ["x", "", ""]


@pytest.mark.parametrize(("stop", "text", "count"), [("b", "xa", 1), ("a", "x", 1), ("xabc", "", 0)])
def test_a_token_that_begins_before_the_stop_string_is_told(stop: str, text: str, count: int) -> None:
    found, tokens = StopStringFilter([stop]).feed([TextToken("xabc", -1.0, ())], stopped=True, ended=True)
    assert (found, len(tokens)) == (text, count)
