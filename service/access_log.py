"""A line for each request that has ended: how, and where its time went. Never a word of what was in it."""

import logging
from typing import Literal

from service.request_record import Ended

log = logging.getLogger("service.access")


class AccessLog:
    """``which``: all of them, or those alone that did not end well."""

    def __init__(self, which: Literal["errors", "all"]) -> None:
        self._all = which == "all"

    def __call__(self, ended: Ended) -> None:
        """Write the line of one request."""
        if not self._all and ended.outcome == "ok":
            return
        call = ended.call
        fields: dict[str, object] = {
            "request_id": call.request_id,
            "method": ended.method,
            "route": call.route,
            "status": ended.status,
            "outcome": ended.outcome,
            "model": ended.model,
            "key": ended.key,
            "queue_ms": round(call.queue_s * 1e3, 3),
            "compute_ms": round(call.compute_s * 1e3, 3),
            "total_ms": round((ended.ended_s - ended.started_s) * 1e3, 3),
            "batch": call.batch_items,
            "bytes": ended.sent,
        }
        log.info("request", extra={"fields": fields})
