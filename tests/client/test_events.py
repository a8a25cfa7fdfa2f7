"""events.py: events are found wherever the bytes are cut."""

import pytest

from seqserve.events import Event, Events

STREAM = ': keep-alive\n\ndata: {"a":"\u2028ü"}\n\nevent: error\r\ndata: 1\r\ndata:2\r\n\r\nid: 7\rdata: x\r\r'.encode()
FOUND = [Event("message", '{"a":"\u2028ü"}'), Event("error", "1\n2")]


def fed(*chunks: bytes) -> list[Event]:
    events = Events()
    return [event for chunk in chunks for event in events.feed(chunk)]


@pytest.mark.parametrize("cut", range(1, len(STREAM)))
def test_events_are_the_same_wherever_they_are_cut(cut: int) -> None:
    assert fed(STREAM[:cut], STREAM[cut:], b"\n") == [*FOUND, Event("message", "x")]


def test_what_has_no_end_is_no_event() -> None:
    assert fed(b"data: 1\n") == []
    assert fed(b"event: error\n\n") == []
