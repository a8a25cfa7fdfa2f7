"""Log lines as text or JSON, including those of BentoML and uvicorn, and the access log.

The contents of requests are never logged. Exceptions keep their message, their causes and their traceback, but quoted
text in a message is replaced: in an error message, quotes mark a value, and a value may come from a request.
"""

import json
import logging
import re
import time
import traceback
from types import TracebackType
from typing import Literal

from pydantic import ValidationError

from service.telemetry import RequestRecord

access_log = logging.getLogger("service.access")

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
# A quoted value, and everything after a quotation mark that nothing closes. The apostrophe in "can't" opens nothing.
QUOTED = re.compile(r"""(?<!\w)(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|["'].*)""", re.DOTALL)


class TextFormatter(logging.Formatter):
    """One line for people."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s", "%Y-%m-%dT%H:%M:%SZ")

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        fields: dict[str, object] = getattr(record, "fields", {})
        return " ".join([line, *(f"{name}={value}" for name, value in fields.items())])

    def formatException(self, ei: ExcInfo) -> str:
        return "" if ei[1] is None else _format_exception(ei[1])


class JsonFormatter(TextFormatter):
    """One JSON object for each line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": self.formatTime(record, self.datefmt),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


TEXT = TextFormatter()
JSON = JsonFormatter()


def _format_exception(error: BaseException) -> str:
    """Return the traceback of an exception and of its causes, without quoted values."""
    parts = [*traceback.format_tb(error.__traceback__), f"{type(error).__qualname__}: {_redacted(error)}"]
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is not None:
        parts = [_format_exception(earlier), "\n\nwhich led to:\n\n", *parts]
    return "".join(parts)


def _redacted(error: BaseException) -> str:
    if isinstance(error, ValidationError):  # quotes the input without quotation marks, too
        return f"{error.error_count()} errors in {error.title}"
    return QUOTED.sub("'…'", str(error))


class AccessLog:
    """Logs finished requests: all of them, or only the ``errors``."""

    def __init__(self, which: Literal["errors", "all"]) -> None:
        self._all = which == "all"

    def __call__(self, record: RequestRecord) -> None:
        if not self._all and record.outcome == "ok":
            return
        request = record.request
        fields: dict[str, object] = {
            "request_id": request.request_id,
            "method": record.method,
            "route": request.route,
            "status": record.status,
            "outcome": record.outcome,
            "model": record.model,
            "key": record.key,
            "queue_ms": round(request.queue_s * 1e3, 3),
            "compute_ms": round(request.compute_s * 1e3, 3),
            "total_ms": round((record.ended_s - record.started_s) * 1e3, 3),
            "batch": request.batch_items,
            "bytes": record.sent_bytes,
        }
        access_log.info("request", extra={"fields": fields})


def configure(log_format: Literal["text", "json"]) -> None:
    """Set the format of every handler that the server has set up, and turn off the access log of uvicorn."""
    formatter = JSON if log_format == "json" else TEXT
    log = logging.getLogger("service")
    log.setLevel(logging.INFO)
    root = logging.getLogger()
    for logger in (root, logging.getLogger("bentoml"), logging.getLogger("uvicorn.error")):
        for handler in logger.handlers:
            handler.setFormatter(formatter)
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(formatter)
        log.addHandler(handler)
    logging.getLogger("bentoml.serve").setLevel(logging.WARNING)  # five lines for each worker's start
    # uvicorn formats an access line for every request if the logger has a handler. Ours has more in it.
    logging.getLogger("uvicorn.access").propagate = False
