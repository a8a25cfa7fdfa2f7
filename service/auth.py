"""Who is let in, and how often: keys where there are any, limits for each of them, else for each client's address.

Opened only where settings ask for one: a service without keys and limits has none to pass. Knows no HTTP.
"""

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from service.api_keys import Keyring
from service.errors import Unauthorized
from service.rate_limits import Allowance, Clock, Meter, Rate
from service.settings import ROOT, Settings

ADDRESSES = 10_000  # that are remembered; who has not been seen for longest is forgotten first
IPV6_PREFIX = 64  # what one subscriber has: a limit on less would be none


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """Who was let in. ``name`` is that of a key, "" where there are none."""

    name: str
    meter: Meter | None  # None: without limits


class Gate:
    """Keeps the keys and what everybody has had."""

    def __init__(self, keyring: Keyring | None, usual: Allowance, *, workers: int, clock: Clock) -> None:
        self._keyring, self._usual, self._workers, self._clock = keyring, usual, workers, clock
        self._guests: dict[str, tuple[Allowance, Guest]] = {}  # by the names of keys
        self._addresses: OrderedDict[str, Guest] = OrderedDict()

    def enter(self, key: bytes | None, address: Callable[[], str]) -> Guest:
        """Return who has come. ``key``: as it was sent, None if there was none. Raises Unauthorized."""
        if self._keyring is None:
            return self._from(_network(address()))
        found = self._keyring.find(key) if key else None
        if found is None:
            raise Unauthorized("an API key is required")
        allowance, guest = self._guests.get(found.name, (None, None))
        if guest is None or allowance != found.allowance:
            guest = self._new(found.name, found.allowance)
            self._guests[found.name] = found.allowance, guest
        return guest

    def refresh(self) -> None:
        """Look for new keys. Who kept key name and limits keeps what was counted."""
        if self._keyring is not None and self._keyring.refresh():
            names = self._keyring.names()
            self._guests = {name: known for name, known in self._guests.items() if name in names}

    @property
    def wants_keys(self) -> bool:
        """Whether nobody comes in without one."""
        return self._keyring is not None

    def _from(self, network: str) -> Guest:
        guest = self._addresses.pop(network, None) or self._new("", self._usual)
        self._addresses[network] = guest
        if len(self._addresses) > ADDRESSES:
            self._addresses.popitem(last=False)
        return guest

    def _new(self, name: str, allowance: Allowance) -> Guest:
        limited = allowance != Allowance()
        return Guest(name=name, meter=Meter(allowance.shared(self._workers), self._clock) if limited else None)


def open_gate(settings: Settings, clock: Clock) -> Gate | None:
    """Return the gate that the settings ask for, None if they ask for none. Raises BadKeys and OSError."""
    usual = Allowance(rate=Rate.parse(settings.rate_limit), day_requests=settings.day_requests or None)
    keyring = None
    if settings.api_keys or settings.api_keys_file:
        file = ROOT / settings.api_keys_file if settings.api_keys_file else None
        keyring = Keyring(settings.api_keys, Path(file) if file else None, usual)
        keyring.read()
    if keyring is None and usual == Allowance():
        return None
    return Gate(keyring, usual, workers=settings.workers, clock=clock)


def _network(address: str) -> str:
    """Return what is counted as one client."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address.partition("%")[0], IPV6_PREFIX), strict=False))
