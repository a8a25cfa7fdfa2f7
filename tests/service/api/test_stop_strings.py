"""StopStringFilter: which part of a growing text may be sent."""

import pytest

from service.api.openai import StopStringFilter, TextToken


def sent(pieces: list[str], *stops: str, stopped: bool) -> list[str]:
    filter_, found = StopStringFilter(stops), []
    for place, piece in enumerate(pieces):
        last = place == len(pieces) - 1
        found.append(filter_.feed([TextToken(piece, None, ())], stopped=last and stopped, ended=last)[0])
    return found


def test_a_partial_match_is_held_back_until_it_is_decided() -> None:
    assert sent(["a", "E", "N", "x"], "END", stopped=False) == ["a", "", "", "ENx"]
    assert sent(["a", "E", "N", "D"], "END", stopped=True) == ["a", "", "", ""]
    assert sent(["a", "E", "N"], "END", stopped=False) == ["a", "", "EN"]


def test_overlapping_partial_matches_are_kept() -> None:
    assert sent(list("xaab"), "aab", stopped=True) == ["x", "", "", ""]
    assert sent(list("aaab"), "aab", stopped=True) == ["", "", "a", ""]


def test_a_text_ends_before_the_earliest_stop_string() -> None:
    assert sent(list("xab"), "b", "ab", stopped=True) == ["x", "", ""]


@pytest.mark.parametrize(("stop", "text", "count"), [("b", "xa", 1), ("a", "x", 1), ("xabc", "", 0)])
def test_a_token_that_begins_before_the_stop_string_is_released(stop: str, text: str, count: int) -> None:
    found, tokens = StopStringFilter([stop]).feed([TextToken("xabc", -1.0, ())], stopped=True, ended=True)
    assert (found, len(tokens)) == (text, count)
