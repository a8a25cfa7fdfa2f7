"""Keys and where they come from; who is counted as one client."""

import hashlib
import logging
import os
from pathlib import Path

import pytest

from service.api_keys import BadKeys
from service.auth import ADDRESSES, Gate, open_gate
from service.errors import Unauthorized
from service.settings import Settings

HASHED = hashlib.sha256(b"hashed-key").hexdigest()


def gate(file: Path | None = None, **settings: object) -> Gate:
    values = {**settings, **({"api_keys_file": str(file)} if file else {})}
    found = open_gate(Settings.model_validate(values), lambda: 0.0)
    assert found is not None
    return found


def who(gate: Gate, key: str) -> str:
    return gate.enter(key.encode(), lambda: "").name


def write(file: Path, text: str) -> Path:
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, file)
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    text = f"# keys\n\nnameless-key\nalice alices-key rate=2/s day_requests=9\nbatch sha256:{HASHED} rate=none\n"
    return write(tmp_path / "keys", text)


def test_without_keys_and_limits_there_is_no_gate() -> None:
    assert open_gate(Settings(), lambda: 0.0) is None


def test_every_key_opens_under_its_name(file: Path) -> None:
    it = gate(file, api_keys=("from-the-settings",))
    keys = ("from-the-settings", "nameless-key", "alices-key", "hashed-key")
    assert [who(it, key) for key in keys] == ["key-1", "key-2", "alice", "batch"]


@pytest.mark.parametrize("key", ["", "alices-ke", "alices-key ", "alice", f"sha256:{HASHED}", HASHED, "é" * 8])
def test_nothing_else_opens(file: Path, key: str) -> None:
    with pytest.raises(Unauthorized):
        who(gate(file), key)


def test_a_key_has_the_usual_limits_unless_it_has_its_own(file: Path) -> None:
    it = gate(file, rate_limit="5/s")
    limits = {}
    for key in (b"nameless-key", b"alices-key", b"hashed-key"):
        guest = it.enter(key, lambda: "")
        limits[guest.name] = [(each.policy, each.count) for each in guest.meter.standings()] if guest.meter else []
    assert limits == {"key-1": [("rate", 5)], "alice": [("rate", 2), ("day", 9)], "batch": []}


def test_keys_change_without_a_restart(file: Path) -> None:
    it = gate(file)
    write(file, "alice alices-key\nbob bobs-new-key\n")
    assert who(it, "nameless-key") == "key-1"
    it.refresh()
    assert (who(it, "alices-key"), who(it, "bobs-new-key")) == ("alice", "bob")
    with pytest.raises(Unauthorized):
        who(it, "nameless-key")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a b c", "line 1 of the file of keys: write a key, or a name and a key"),
        ("alice short", "a key has 8 characters at least"),
        ("al/ce long-enough", "a name has"),
        ("alice sha256:abc", "64 digits"),
        ("alice long-enough rate=fast", "no rate"),
        ("alice long-enough day_requests=0", "above 0"),
        ("same long-enough\nsame long-enougher", "the same"),
        ("a long-enough\nb long-enough", "the same"),
    ],
)
def test_a_bad_file_stops_the_start_and_changes_nothing_later(
    file: Path, text: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    it = gate(file)
    write(file, text)
    with pytest.raises(BadKeys, match=reason):
        gate(file)
    with caplog.at_level(logging.INFO, "service"):
        it.refresh()
        it.refresh()
    assert who(it, "alices-key") == "alice"
    assert len(caplog.records) == 1
    assert "long-enough" not in caplog.text


def test_a_file_that_is_gone_changes_nothing_until_it_is_back(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    it = gate(file)
    file.unlink()
    it.refresh()
    it.refresh()
    assert who(it, "alices-key") == "alice"
    assert len(caplog.records) == 1
    write(file, "bob bobs-new-key\n")
    it.refresh()
    assert who(it, "bobs-new-key") == "bob"


def test_a_file_without_a_key_lets_nobody_in(file: Path) -> None:
    it = gate(file)
    write(file, "# nobody\n")
    it.refresh()
    with pytest.raises(Unauthorized):
        who(it, "alices-key")


def test_new_keys_do_not_forget_what_was_counted(file: Path) -> None:
    it = gate(file)
    counted = it.enter(b"alices-key", lambda: "")
    write(file, "alice alices-key rate=2/s day_requests=9\n")
    it.refresh()
    assert it.enter(b"alices-key", lambda: "") is counted
    write(file, "alice alices-key rate=3/s\n")
    it.refresh()
    assert it.enter(b"alices-key", lambda: "") is not counted


def test_without_keys_an_address_is_a_client_and_a_subscribers_network_is_one() -> None:
    it = gate(rate_limit="5/s")
    one, other, third = ("2001:db8:0:1::1", "2001:db8:0:1::ffff%eth0", "2001:db8:0:2::1")
    assert it.enter(None, lambda: one) is it.enter(None, lambda: other)
    assert it.enter(None, lambda: one) is not it.enter(None, lambda: third)
    assert it.enter(None, lambda: "10.0.0.1") is not it.enter(None, lambda: "10.0.0.2")


def test_addresses_are_forgotten_before_they_fill_the_memory() -> None:
    it = gate(rate_limit="5/s")
    first, busy = it.enter(None, lambda: "first"), it.enter(None, lambda: "busy")
    for number in range(ADDRESSES):
        it.enter(None, lambda number=number: f"10.{number}")  # type: ignore[misc]
        assert it.enter(None, lambda: "busy") is busy
    assert len(it._addresses) == ADDRESSES
    assert it.enter(None, lambda: "first") is not first
