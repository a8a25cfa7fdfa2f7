"""What a log line looks like, as text or as JSON; BentoML's and uvicorn's lines included.

Of an exception a line tells its type and where it was raised, never its message: messages quote values, and
values are users' texts.
"""

import json
import logging
import time
import traceback
from types import TracebackType
from typing import Literal

Raised = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class _Quiet(logging.Formatter):
    """Writes exceptions without their messages."""

    converter = staticmethod(time.gmtime)

    def formatException(self, ei: Raised) -> str:
        kind, _, trace = ei
        frames = "".join(traceback.format_tb(trace))
        return f"{frames}{kind.__qualname__ if kind else 'no exception'} (message withheld)"


class _Json(_Quiet):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%SZ"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _Text(_Quiet):
    """One line for people."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        fields: dict[str, object] = getattr(record, "fields", {})
        return " ".join([line, *(f"{name}={value}" for name, value in fields.items())])


TEXT = _Text("%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s", "%Y-%m-%dT%H:%M:%SZ")
JSON = _Json()


def configure(form: Literal["text", "json"]) -> None:
    """Make every handler that the server has set up write our lines, and quieten what repeats the metrics."""
    formatter = JSON if form == "json" else TEXT
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
    # uvicorn builds the parts of an access line for every request if anybody listens; nobody does here.
    logging.getLogger("uvicorn.access").propagate = False
