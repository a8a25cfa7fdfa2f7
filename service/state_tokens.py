"""States as values: what a client is handed and hands back, unread and unaltered, to any replica that has the key.

Seals bytes and opens them. Knows neither what is in them nor how they came.

A state is base64url text of: the version (1 byte), the id of the key (4), when it expires (8, seconds since 1970), what
it belongs to (16, a digest), the payload, and HMAC-SHA256 over all of that (32). Nothing is compressed, and nothing but
the length and the key's id is looked at before the signature is found to be right.
"""

import base64
import binascii
import hashlib
import hmac
import math
import struct
from collections.abc import Callable, Sequence

from service.errors import InvalidRequest

VERSION = 1
HEAD = struct.Struct(">B4sQ16s")
MAC_BYTES = 32
FIELD = "parameters.state"


class StateSigner:
    """The keys: the first signs, all open. `clock` tells the seconds since 1970, which replicas agree on."""

    def __init__(self, keys: Sequence[str], *, ttl_s: float, clock: Callable[[], float]) -> None:
        self._keys = {_key_id(key): key.encode() for key in keys}
        self._signing = _key_id(keys[0])
        self._ttl_s, self._clock = ttl_s, clock

    def seal(self, payload: bytes, owner: str) -> str:
        """Return the state that only `open` for the same `owner`, such as weights, takes the payload out of again."""
        expires_s = math.ceil(self._clock() + self._ttl_s)
        signed = HEAD.pack(VERSION, self._signing, expires_s, _digest(owner)) + payload
        return base64.urlsafe_b64encode(signed + _mac(self._keys[self._signing], signed)).decode()

    def open(self, state: str, owner: str, *, most_bytes: int) -> bytes:
        """Return the payload, of at most `most_bytes`. Raises InvalidRequest for a state that is not good any more,
        or never was.
        """
        if len(state) > 4 * math.ceil((HEAD.size + most_bytes + MAC_BYTES) / 3):
            raise _refused("is longer than any state of this model: send it exactly as it came")
        try:
            data = binascii.a2b_base64(state.translate(_TO_STANDARD).encode("ascii"), strict_mode=True)
        except ValueError:  # of which both UnicodeEncodeError and binascii.Error are
            raise _altered() from None
        # The last character has bits that no byte holds: of all its spellings only ours is taken.
        if len(data) < HEAD.size + MAC_BYTES or base64.urlsafe_b64encode(data).decode() != state:
            raise _altered()
        signed, mac = data[:-MAC_BYTES], data[-MAC_BYTES:]
        version, key_id, expires_s, owned = HEAD.unpack_from(signed)
        key = self._keys.get(key_id)
        if version == VERSION and key is None:
            raise _refused(
                "was signed with a key that is not in use here: begin again from the text (a service that is given no "
                "SEQSERVE_STATE_KEY has a new one with every start)"
            )
        if key is None or not hmac.compare_digest(_mac(key, signed), mac):
            raise _altered()
        late_s = self._clock() - expires_s
        if late_s >= 0:
            raise _refused(f"expired {late_s:.0f} s ago: begin again from the text")
        if not hmac.compare_digest(owned, _digest(owner)):
            raise _refused(
                "belongs to other weights: name the model and wait for the version that made it, or begin again "
                "from the text"
            )
        return signed[HEAD.size :]


_TO_STANDARD = {ord("-"): "+", ord("_"): "/", ord("+"): "!", ord("/"): "!"}  # what is not ours becomes no base64


def _key_id(key: str) -> bytes:
    """What tells which key it was, and nothing of the key."""
    return hashlib.sha256(b"seqserve state key id\0" + key.encode()).digest()[:4]


def _digest(owner: str) -> bytes:
    return hashlib.sha256(owner.encode()).digest()[:16]


def _mac(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, signed, "sha256")


def _altered() -> InvalidRequest:
    return _refused("was not made by this service, or altered since: send it exactly as it came")


def _refused(what: str) -> InvalidRequest:
    return InvalidRequest(f"the state {what}", field=FIELD)
