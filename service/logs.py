"""Log lines as text or JSON, including those of BentoML and uvicorn, and the access log.

Messages that clients can trigger are limited to one of each kind per second. Answers to closed connections, which are
common, take one line.

The contents of requests are never logged. Exceptions keep their message, their causes and their traceback, but quoted
text in a message is replaced: in an error message, quotes mark a value, and a value may come from a request.
"""

import json
import logging
import re
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Literal

from pydantic import ValidationError

from service.telemetry import RequestRecord

access_log = logging.getLogger("service.access")

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
# What servers raise and log when an answer comes after its connection was closed.
CLOSED = re.compile(
    r"the handler is closed|after (sending 'websocket\.close'|response already completed)|Cannot .* once"
)
UNANSWERED = "ASGI callable returned without starting response."
# The loggers of messages that clients can trigger.
CLIENT_LOGGERS = (
    *("asyncio", "bentoml", "grpc", "uvicorn", "websockets", "service.api", "service.engine", "service.generation"),
    *("service.scheduling", "service.server.connection_limits", "service.server.http_protocol"),
)
FLOOD_S = 1.0  # between two messages of a kind
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


class ClientMessages(logging.Filter):
    """Limits messages that clients can trigger to one of each kind per second, and shortens those about disconnects."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[
            tuple[object, ...], tuple[float, int]
        ] = {}  # when one was logged, and how many were not since

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING or not record.name.startswith(CLIENT_LOGGERS):
            return True
        error = record.exc_info[1] if record.exc_info else None
        if record.msg == UNANSWERED or (error is not None and _is_disconnect(error)):
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.msg, record.args, record.exc_info = "a connection was closed before its answer was sent", (), None
            error = None
        raised = traceback.extract_tb(error.__traceback__)[-1:] if error is not None else []
        places = [(frame.filename, frame.lineno) for frame in raised]
        kind = (record.pathname, record.lineno, record.levelno, type(error), *places)
        now_s = self._clock()
        logged_s, skipped = self._kinds.get(kind, (-FLOOD_S, 0))
        if now_s - logged_s < FLOOD_S:
            self._kinds[kind] = (logged_s, skipped + 1)
            return False
        self._kinds[kind] = (now_s, 0)
        if skipped:
            record.msg, record.args = f"{record.getMessage()} ({skipped} more of this kind were not logged)", ()
        return True


def _is_disconnect(error: BaseException) -> bool:
    disconnects = ("ClientDisconnected", "ClientDisconnect", "WebSocketDisconnect", "ClientGone")  # of several packages
    return (
        isinstance(error, ConnectionError)
        or type(error).__name__ in disconnects
        or (isinstance(error, RuntimeError) and CLOSED.search(str(error)) is not None)
    )


TEXT = TextFormatter()
JSON = JsonFormatter()
CLIENT_MESSAGES = ClientMessages()


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
            "version": record.version,
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
    for logger in (root, *map(logging.getLogger, ("bentoml", "circus", "uvicorn.error"))):
        for handler in logger.handlers:
            handler.setFormatter(formatter)
            handler.addFilter(CLIENT_MESSAGES)
        if logger.handlers:
            logger.propagate = False  # BentoML gives the root the same handler, which would print a line twice
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(formatter)
        handler.addFilter(CLIENT_MESSAGES)
        log.addHandler(handler)
    logging.getLogger("bentoml.serve").setLevel(logging.WARNING)  # five lines for each worker's start
    # uvicorn formats an access line for every request if the logger has a handler. Ours has more in it.
    logging.getLogger("uvicorn.access").propagate = False
