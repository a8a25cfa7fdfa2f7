"""Signed state tokens: a client keeps its state and sends it back unchanged, to any replica that has the key.

A token is the base64url text of: the version (1 byte), the id of the key (4), the expiry time (8, seconds since
1970), a digest of the subject (16), the payload, and HMAC-SHA256 over all of that (32). Only the length and the id of
the key are read before the signature is verified.
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
HEAD_CHARACTERS = 4 * math.ceil(HEAD.size / 3)  # of a token
FIELD = "state"


class StateSigner:
    """Signs with the first key and accepts all of them. `clock` gives seconds since 1970."""

    def __init__(self, keys: Sequence[str], *, ttl_s: float, clock: Callable[[], float]) -> None:
        self._keys = {_key_id(key): key.encode() for key in keys}
        self._signing_key = _key_id(keys[0])
        self._ttl_s, self._clock = ttl_s, clock

    def sign(self, payload: bytes, subject: str) -> str:
        """Return a token for `payload`. Only `verify` with the same `subject` accepts it."""
        expires_s = math.ceil(self._clock() + self._ttl_s)
        signed = HEAD.pack(VERSION, self._signing_key, expires_s, subject_digest(subject)) + payload
        return base64.urlsafe_b64encode(signed + _mac(self._keys[self._signing_key], signed)).decode()

    def subject_of(self, token: str) -> bytes:
        """Return the digest of the subject that a token claims, without any check, or b"" if it is too short."""
        try:
            digest: bytes = HEAD.unpack_from(base64.urlsafe_b64decode(token[:HEAD_CHARACTERS]))[3]
        except (ValueError, struct.error):
            return b""
        return digest

    def verify(self, token: str, subject: str, *, max_bytes: int) -> bytes:
        """Return the payload, of `max_bytes` at most. Raises InvalidRequest for an invalid or expired token."""
        if len(token) > 4 * math.ceil((HEAD.size + max_bytes + MAC_BYTES) / 3):
            raise _invalid("is longer than any state of this model; send it exactly as you received it")
        try:
            data = binascii.a2b_base64(token.translate(_TO_STANDARD).encode("ascii"), strict_mode=True)
        except ValueError:  # includes UnicodeEncodeError and binascii.Error
            raise _altered() from None
        # The last character has unused bits: accept only the spelling that `sign` produces.
        if len(data) < HEAD.size + MAC_BYTES or base64.urlsafe_b64encode(data).decode() != token:
            raise _altered()
        signed, mac = data[:-MAC_BYTES], data[-MAC_BYTES:]
        version, key_id, expires_s, digest = HEAD.unpack_from(signed)
        key = self._keys.get(key_id)
        if version == VERSION and key is None:
            raise _invalid(
                "was signed with an unknown key; start again from the text (without SEQSERVE_STATE_KEY, the service "
                "makes a new key at every start)"
            )
        if key is None or not hmac.compare_digest(_mac(key, signed), mac):
            raise _altered()
        late_s = self._clock() - expires_s
        if late_s >= 0:
            raise _invalid(f"expired {late_s:.0f} s ago; start again from the text")
        if not hmac.compare_digest(digest, subject_digest(subject)):
            raise _invalid("belongs to another model or version; name the model that made it, or start again")
        return signed[HEAD.size :]


_TO_STANDARD = {ord("-"): "+", ord("_"): "/", ord("+"): "!", ord("/"): "!"}  # rejects the standard alphabet


def _key_id(key: str) -> bytes:
    """Return an id that reveals nothing about the key."""
    return hashlib.sha256(b"seqserve state key id\0" + key.encode()).digest()[:4]


def subject_digest(subject: str) -> bytes:
    """Return the part of a token that says what made it."""
    return hashlib.sha256(subject.encode()).digest()[:16]


def _mac(key: bytes, signed: bytes) -> bytes:
    return hmac.digest(key, signed, "sha256")


def _altered() -> InvalidRequest:
    return _invalid("was not made by this service, or was altered; send it exactly as you received it")


def _invalid(reason: str) -> InvalidRequest:
    return InvalidRequest(f"the state {reason}", field=FIELD)
