"""Authentication: API keys from the settings and a file, and the principal that a request is counted for.

A line of the key file is a key, or a name and a key, then optionally the role and the limits of this key::

    # name       key                              (a hash: printf %s "$KEY" | sha256sum)
    alice        <key-of-alice>
    batch        sha256:<hash>     rate=10/s day_requests=100000
    monitoring   <another-key>     rate=none
    releases     <a-third-key>     role=admin

A key in angle brackets is a placeholder, which is refused like the keys of published examples. Names appear in logs. A
key without a name is called after its position, such as ``key-2``. Only keys with the role ``admin`` change what is
served. The file is read again when it changes.
"""

import hashlib
import ipaddress
import logging
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from limits import RateLimitItemPerDay

from service.errors import Unauthorized
from service.rate_limits import RateLimitPolicy, parse_rate
from service.settings import ROOT, Settings, variable

log = logging.getLogger(__name__)

VALID_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch
HASH = re.compile(r"sha256:([0-9a-f]{64})").fullmatch
KEY_CHARACTERS_MIN = 8
UNLIMITED = "none"
# Keys from examples here and elsewhere, which anyone can try. Their hashes are refused, too.
SAMPLES = frozenset(
    hashlib.sha256(key.encode()).digest()
    for key in (
        *("", "test", "hello", "password", "secret", "admin", "foo", "key", "changeme", "change-me", "12345678"),
        *("password123", "hello world", "my-key", "your-key", "your-api-key", "my-secret-key", "api-key", "sk-1234"),
        *("a-key-of-at-least-8-characters", "another-key-of-hers", "another-long-key", "a-long-secret"),
    )
)
# Well-known and local-use prefixes of NAT64 (RFC 6052, RFC 8215). The last 32 bits are the IPv4 address.
NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
IPV6_PREFIX = 64  # the network of one subscriber, who can use any address in it


class BadKeys(ValueError):
    """A key file that cannot be used. The message names the line but never quotes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The sender of a request. ``name`` is the name of an API key, or "" if there are no keys.

    ``client`` is what rate limits count: the key, or the network of the client's address.
    """

    name: str
    client: str
    policy: RateLimitPolicy
    is_admin: bool = False


ApiKey = tuple[bytes, Principal]  # the hash of a key, and whose it is


class ApiKeys:
    """The API keys in force. Call ``refresh`` regularly."""

    def __init__(self, keys: Iterable[str], file: Path | None, policy: RateLimitPolicy) -> None:
        self._from_settings, self._file, self._policy = tuple(keys), file, policy
        self._salt = secrets.token_bytes(16)
        self._by_hash: dict[bytes, Principal] = {}
        self._fingerprint: tuple[int, ...] | None = None  # of the file that was read
        self._failure: tuple[object, ...] = ()  # the last one that was logged

    def find(self, sent: bytes) -> Principal | None:
        """Return the principal of a key, or None.

        Keys are found by a salted hash, so that the time of a lookup reveals nothing about any key.
        """
        return self._by_hash.get(self._blind(hashlib.sha256(sent).digest()))

    def load(self) -> None:
        """Read all keys. Raises BadKeys and OSError."""
        keys = []
        for number, key in enumerate(self._from_settings, 1):
            try:
                keys.append((_digest(key), _principal(f"key-{number}", self._policy)))
            except ValueError as error:
                raise BadKeys(f"{variable('api_keys')}, key {number}: {error}") from None
        fingerprint = None
        if self._file is not None:
            fingerprint = _fingerprint(self._file)
            try:
                text = self._file.read_text("utf-8-sig")  # Windows editors write a byte order mark
            except UnicodeDecodeError as error:  # its message has the bytes, which may be a key
                raise BadKeys(f"byte {error.start} of the API key file is not UTF-8; save it as UTF-8") from None
            keys += _parse(text, self._policy, first=len(keys) + 1)
        found = {self._blind(digest): principal for digest, principal in keys}
        if len(found) < len(keys) or len({principal.name for _, principal in keys}) < len(keys):
            raise BadKeys("two API keys are equal or have the same name; remove one of them")
        self._by_hash, self._fingerprint, self._failure = found, fingerprint, ()

    def refresh(self) -> None:
        """Reload the file if it has changed, and retry after errors. An error is logged once and changes nothing."""
        if self._file is None or (fingerprint := _fingerprint(self._file)) == self._fingerprint:
            return
        try:
            self.load()
        except (BadKeys, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            if self._failure != (fingerprint, reason):
                self._failure = (fingerprint, reason)
                log.error("cannot read the API key file, so the keys stay as they were: %s", reason)
            return
        log.info("read %d API keys", len(self._by_hash))

    def _blind(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._salt, digest_size=16).digest()


class Authenticator:
    """Finds the principal of a request."""

    def __init__(self, keys: ApiKeys | None, policy: RateLimitPolicy) -> None:
        self._keys, self._policy = keys, policy

    @property
    def requires_key(self) -> bool:
        return self._keys is not None

    def authenticate(self, key: bytes | None, client_address: Callable[[], str]) -> Principal:
        """Return the principal of a key or, where there are no keys, of an address. Raises Unauthorized."""
        if self._keys is None:
            return Principal(name="", client=client_network(client_address()), policy=self._policy)
        if not key:
            raise Unauthorized("an API key is required, and none was sent")
        principal = self._keys.find(key)
        if principal is None:
            raise Unauthorized("the API key that was sent is not one of this service")
        return principal

    def refresh(self) -> None:
        if self._keys is not None:
            self._keys.refresh()


def open_authenticator(settings: Settings) -> Authenticator | None:
    """Return the authenticator of the settings, or None without keys and limits. Raises BadKeys."""
    day = RateLimitItemPerDay(settings.day_requests) if settings.day_requests else None
    policy = RateLimitPolicy(rate=parse_rate(settings.rate_limit), day=day)
    keys = None
    if settings.api_keys or settings.api_keys_file:
        keys = ApiKeys(settings.api_keys, ROOT / settings.api_keys_file if settings.api_keys_file else None, policy)
        try:
            keys.load()
        except OSError as error:
            reason = f"cannot be read: {error.strerror}; name a readable file"
            raise BadKeys(f"{variable('api_keys_file')}={settings.api_keys_file} {reason}") from None
        except BadKeys as error:
            if variable("api_keys") in str(error) or not settings.api_keys_file:
                raise
            raise BadKeys(f"{variable('api_keys_file')}={settings.api_keys_file}: {error}") from None
    return None if keys is None and policy.is_unlimited else Authenticator(keys, policy)


def client_network(address: str) -> str:
    """Return the network that rate limits count as one client: an IPv4 address, or the /64 of an IPv6 address.

    IPv6 addresses that contain the IPv4 address of the client count as the latter: IPv4-mapped ones (a dual-stack
    socket), those of NAT64 (RFC 6052), 6to4 and Teredo.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a Unix socket has no address
        return address
    if isinstance(parsed, ipaddress.IPv4Address) or parsed.is_loopback:
        return str(parsed)
    inside = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo else None)
    if inside is None and any(parsed in prefix for prefix in NAT64):
        inside = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)
    return str(inside or ipaddress.ip_network((parsed, IPV6_PREFIX), strict=False))


def _fingerprint(file: Path) -> tuple[int, ...]:
    """Return a value that changes when the file is modified or replaced; () if it is missing."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _principal(name: str, policy: RateLimitPolicy, *, is_admin: bool = False) -> Principal:
    return Principal(name=name, client=f"key {name}", policy=policy, is_admin=is_admin)


def _digest(text: str) -> bytes:
    """Return the hash of a key. Raises ValueError for a placeholder or a published key."""
    if text.startswith("<") and text.endswith(">"):
        raise ValueError("the key is a placeholder; replace it with a key of your own: openssl rand -hex 16")
    found = HASH(text)
    digest = bytes.fromhex(found[1]) if found else hashlib.sha256(text.encode()).digest()
    if digest in SAMPLES:
        raise ValueError("the key is from a published example; replace it with a key of your own: openssl rand -hex 16")
    return digest


def _parse(text: str, policy: RateLimitPolicy, *, first: int) -> list[ApiKey]:
    keys: list[ApiKey] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if words and not words[0].startswith("#"):
            try:
                keys.append(_parse_key(words, policy, number=first + len(keys)))
            except ValueError as error:
                raise BadKeys(f"line {number} of the API key file: {error}") from None
    return keys


def _parse_key(words: list[str], policy: RateLimitPolicy, *, number: int) -> ApiKey:
    is_admin = False
    while words and (option := words[-1].partition("="))[0] in ("rate", "day_requests", "role") and option[1]:
        text = "" if option[2] == UNLIMITED else option[2]
        if option[0] == "role":
            if option[2] != "admin":
                raise ValueError("role must be admin; leave it out for other keys")
            is_admin = True
        elif option[0] == "rate":
            policy = replace(policy, rate=parse_rate(text))
        elif text and not (text.isascii() and text.isdigit() and int(text) > 0):
            raise ValueError(f"day_requests must be a number above 0, or {UNLIMITED}")
        else:
            policy = replace(policy, day=RateLimitItemPerDay(int(text)) if text else None)
        words = words[:-1]
    if len(words) not in (1, 2):
        raise ValueError("expected a key, or a name and a key, then rate=…, day_requests=… or role=admin")
    name, key = words[0] if len(words) == 2 else f"key-{number}", words[-1]
    if not VALID_NAME(name):
        raise ValueError("a name must have 1 to 64 letters, digits, dots, dashes or underscores")
    if len(key) < KEY_CHARACTERS_MIN:
        raise ValueError(f"a key must have at least {KEY_CHARACTERS_MIN} characters")
    if key.startswith("sha256:") and not HASH(key):
        raise ValueError("sha256: must be followed by 64 hexadecimal digits in lower case")
    return _digest(key), _principal(name, policy, is_admin=is_admin)
