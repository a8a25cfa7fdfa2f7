"""API keys and where they come from, and which clients share a rate limit."""

import hashlib
import logging
import os
from pathlib import Path

import pytest
from limits import RateLimitItemPerDay

from service.auth import Authenticator, BadKeys, Principal, client_network, open_authenticator
from service.errors import Unauthorized
from service.rate_limits import RateLimitPolicy, parse_rate
from service.settings import ROOT, Settings

HASHED = hashlib.sha256(b"hashed-key").hexdigest()


def authenticator(file: Path | None = None, **settings: object) -> Authenticator:
    values = {**settings, **({"api_keys_file": str(file)} if file else {})}
    found = open_authenticator(Settings.model_validate(values))
    assert found is not None
    return found


def principal(authenticator: Authenticator, key: str) -> Principal:
    return authenticator.authenticate(key.encode(), lambda: "")


def name(authenticator: Authenticator, key: str) -> str:
    return principal(authenticator, key).name


def write(file: Path, text: str | bytes) -> Path:
    fresh = file.with_suffix(".new")
    fresh.write_bytes(text.encode() if isinstance(text, str) else text)
    os.replace(fresh, file)
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    text = f"# keys\n\nnameless-key\nalice alices-key rate=2/s day_requests=9\nbatch sha256:{HASHED} rate=none\n"
    return write(tmp_path / "keys", text)


def test_without_keys_and_limits_nothing_is_authenticated() -> None:
    assert open_authenticator(Settings()) is None


def test_each_key_has_a_name(file: Path) -> None:
    found = authenticator(file, api_keys=("from-the-settings",))
    keys = ("from-the-settings", "nameless-key", "alices-key", "hashed-key")
    assert [name(found, key) for key in keys] == ["key-1", "key-2", "alice", "batch"]


@pytest.mark.parametrize("key", ["", "alices-ke", "alices-key ", "alice", f"sha256:{HASHED}", HASHED, "é" * 8])
def test_a_wrong_key_is_unauthorized(file: Path, key: str) -> None:
    with pytest.raises(Unauthorized):
        principal(authenticator(file), key)


def test_a_missing_key_and_a_wrong_one_are_different_errors(file: Path) -> None:
    messages = set()
    for key in ("", "alices-ke", "other-key"):
        with pytest.raises(Unauthorized) as caught:
            principal(authenticator(file), key)
        messages.add(caught.value.message)
    assert len(messages) == 2


def test_a_key_has_the_default_limits_unless_it_has_its_own(file: Path) -> None:
    found = authenticator(file, rate_limit="5/s")
    policies = {
        each.name: each.policy
        for each in (principal(found, key) for key in ("nameless-key", "alices-key", "hashed-key"))
    }
    assert policies == {
        "key-1": RateLimitPolicy(rate=parse_rate("5/s")),
        "alice": RateLimitPolicy(rate=parse_rate("2/s"), day=RateLimitItemPerDay(9)),
        "batch": RateLimitPolicy(),
    }


def test_keys_change_without_a_restart(file: Path) -> None:
    found = authenticator(file)
    write(file, "alice alices-key\nbob bobs-new-key\n")
    assert name(found, "nameless-key") == "key-1"
    found.refresh()
    assert (name(found, "alices-key"), name(found, "bobs-new-key")) == ("alice", "bob")
    with pytest.raises(Unauthorized):
        principal(found, "nameless-key")


@pytest.mark.parametrize(
    "text",
    [
        "a b c",
        "alice short",
        "al/ce long-enough",
        "alice sha256:abc",
        "alice long-enough rate=fast",
        "alice long-enough day_requests=0",
        "same long-enough\nsame long-enougher",
        "a long-enough\nb long-enough",
        b"caf\xe9 long-enough",
        "alice long-enough".encode("utf-16"),
    ],
)
def test_a_bad_file_stops_the_start_but_changes_nothing_later(
    file: Path, text: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    found = authenticator(file)
    write(file, text)
    with pytest.raises(BadKeys) as caught:
        authenticator(file)
    with caplog.at_level(logging.INFO, "service"):
        found.refresh()
        found.refresh()
    assert name(found, "alices-key") == "alice"
    assert len(caplog.records) == 1
    assert "long-enough" not in caplog.text + str(caught.value)


def test_a_byte_order_mark_is_not_part_of_a_name(file: Path) -> None:
    assert name(authenticator(write(file, "\ufeffbob bobs-new-key\n")), "bobs-new-key") == "bob"


SAMPLE = hashlib.sha256(b"test").hexdigest()


@pytest.mark.parametrize("key", ["<key-of-alice>", "password", "a-key-of-at-least-8-characters", f"sha256:{SAMPLE}"])
def test_placeholders_and_published_keys_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(BadKeys) as caught:
        authenticator(write(tmp_path / "keys", f"alice {key}\n"))
    assert key not in str(caught.value)
    with pytest.raises(BadKeys, match="SEQSERVE_API_KEYS"):
        authenticator(api_keys=(key,))


def test_the_keys_of_the_documentation_are_not_valid(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "secure.md").read_text()
    block = page.split("```")[1].strip()
    for line in block.splitlines()[1:]:
        with pytest.raises(BadKeys):
            authenticator(write(tmp_path / "keys", line))


def test_a_missing_file_changes_nothing_until_it_is_back(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = authenticator(file)
    file.unlink()
    found.refresh()
    found.refresh()
    assert name(found, "alices-key") == "alice"
    assert len(caplog.records) == 1
    write(file, "bob bobs-new-key\n")
    found.refresh()
    assert name(found, "bobs-new-key") == "bob"


@pytest.mark.parametrize("reason", [OSError(24, "Too many open files"), PermissionError(13, "Permission denied")])
def test_a_file_that_cannot_be_opened_is_read_again_until_it_can(
    file: Path, reason: OSError, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = authenticator(file)
    write(file, "bob bobs-new-key\n")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", lambda *_: (_ for _ in ()).throw(reason))
        for _ in range(3):
            found.refresh()
    assert (name(found, "alices-key"), len(caplog.records)) == ("alice", 1)
    found.refresh()
    assert name(found, "bobs-new-key") == "bob"
    with pytest.raises(Unauthorized):
        principal(found, "alices-key")


def test_a_file_without_keys_accepts_no_key(file: Path) -> None:
    found = authenticator(file)
    write(file, "# nothing\n")
    found.refresh()
    with pytest.raises(Unauthorized):
        principal(found, "alices-key")


def test_new_keys_keep_what_was_counted_for_a_name(file: Path) -> None:
    found = authenticator(file)
    before = principal(found, "alices-key").client
    write(file, "alice another-key rate=3/s\n")
    found.refresh()
    assert principal(found, "another-key").client == before


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::FFFF:a00:1", "10.0.0.1"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:1::ffff%eth0", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::1", "2001:db8:0:2::/64"),
        ("::1", "::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2"),
        ("64:ff9b::a00:1", "10.0.0.1"),
        ("64:ff9b::10.0.0.2", "10.0.0.2"),
        ("64:ff9b:1::10.0.0.2", "10.0.0.2"),
        ("2002:c000:204::1", "192.0.2.4"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "192.0.2.45"),
        ("", ""),
    ],
)
def test_an_address_is_counted_as_its_network(address: str, network: str) -> None:
    assert client_network(address) == network
    found = authenticator(rate_limit="5/s").authenticate(None, lambda: address)
    assert (found.name, found.client) == ("", network)


def test_only_a_key_with_the_role_is_an_administrator(tmp_path: Path) -> None:
    keys = write(tmp_path / "keys", "release a-key-for-releases role=admin rate=10/s\nclient a-key-for-clients\n")
    found = authenticator(keys, api_keys=("a-key-from-the-settings",))
    names = ("a-key-for-releases", "a-key-for-clients", "a-key-from-the-settings")
    assert [principal(found, key).is_admin for key in names] == [True, False, False]


def test_an_unknown_role_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadKeys, match="role"):
        authenticator(write(tmp_path / "keys", "release a-key-for-releases role=root\n"))
