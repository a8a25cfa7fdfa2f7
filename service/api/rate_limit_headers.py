"""Keys and limits as HTTP has them: the Authorization header, and the RateLimit fields of answers.

The fields are those of draft-ietf-httpapi-ratelimit-headers-10 (and 08 and 09): a list of policies each, by name.
"""

import math

from service.api.problems import Headers
from service.api.request_headers import Head
from service.errors import Unauthorized
from service.rate_limits import Meter


def key_of(head: Head) -> bytes | None:
    """Return the API key that a request brings, None if it brings none. Raises Unauthorized for several."""
    if b"authorization" in head.repeated:
        raise Unauthorized("this service wants one API key, but there are several Authorization headers: send one")
    scheme, _, given = head.fields.get(b"authorization", b"").partition(b" ")
    return given.strip() if scheme.lower() == b"bearer" else None


def limits_of(meter: Meter) -> Headers:
    """Return the fields that tell a client what it may have and what is left of it."""
    standings = meter.standings()
    policies = ", ".join(f'"{each.policy}";q={each.count};w={each.window_s}' for each in standings)
    left = ", ".join(f'"{each.policy}";r={each.left};t={math.ceil(each.reset_s)}' for each in standings)
    return [(b"ratelimit-policy", policies.encode()), (b"ratelimit", left.encode())]
