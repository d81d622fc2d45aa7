"""Logs as JSON, an object a line, in the names of OpenTelemetry's log data model.

| field | what it is |
|---|---|
| `timestamp` | when it was logged, ISO 8601 in UTC |
| `severity_text`, `severity_number` | such as `WARN` and 13 (9 is INFO, 17 ERROR) |
| `body` | the message, for people |
| `scope` | the logger, such as `ursa.register.orchestrator` |
| `resource` | `service.name`, `service.version`, `host.name`, `process.pid` |
| `attributes` | what the line is about: those of `_ATTRIBUTES`, Dagster's run and step, an error's type and stack |
| `trace_id`, `span_id` | if OpenTelemetry's own instrumentation of `logging` has put them on the record |

Only attributes that are named here are written: what others put on a record is nobody's to show. Of an exception that
is none of `ursa_pipelines.errors` the text is left out, since nobody has made sure that it holds no name; its type and
the lines it came from are there. Message and exception of ours are as in any other log.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ursa_pipelines.errors import UrsaError

SERVICE = "ursa"

_ATTRIBUTES = {
    "recording": "ursa.recording",
    "outcome": "ursa.outcome",
    "ingest_path": "ursa.path",
    "bytes_uploaded": "ursa.bytes",
    "files_uploaded": "ursa.files.uploaded",
    "files_skipped": "ursa.files.skipped",
    "error_type": "error.type",
}
"""What our loggers put on a record by `extra=`, and what it is called outside."""

_DAGSTER = {"run_id": "dagster.run_id", "job_name": "dagster.job_name", "step_key": "dagster.step_key"}

_SEVERITIES = (
    (logging.CRITICAL, "FATAL", 21),
    (logging.ERROR, "ERROR", 17),
    (logging.WARNING, "WARN", 13),
    (logging.INFO, "INFO", 9),
    (logging.DEBUG, "DEBUG", 5),
    (logging.NOTSET, "TRACE", 1),
)
_NO_SPAN = {"", "0"}


class JsonFormatter(logging.Formatter):
    """Formats records of any logger as one line of ASCII JSON each; see the module."""

    def __init__(self, *_: object, **__: object) -> None:
        # Whoever configures logging from a file hands over a format, which has no meaning here.
        super().__init__()
        self._resource = {
            "service.name": SERVICE,
            "service.version": _version(),
            "host.name": socket.gethostname(),
            "process.pid": os.getpid(),
        }

    def format(self, record: logging.LogRecord) -> str:
        text, number = next((text, number) for level, text, number in _SEVERITIES if record.levelno >= level)
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "timestamp": at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "severity_text": text,
            "severity_number": number,
            "body": _body(record),
            "scope": record.name,
            "attributes": dict(_attributes(record)),
            "resource": self._resource,
        }
        for name, given in (("trace_id", "otelTraceID"), ("span_id", "otelSpanID")):
            if (told := str(record.__dict__.get(given, ""))) not in _NO_SPAN:
                line[name] = told
        return json.dumps(line, default=str)


def log_to(path: Path) -> Callable[[], None]:
    """Appends what this package logs from now on, INFO and above, to a file. Raises `OSError`; what it returns ends
    that.
    """
    handler = logging.FileHandler(path)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger(SERVICE)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)

    def end() -> None:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()

    return end


def _body(record: logging.LogRecord) -> str:
    # Dagster puts its own words before the message, and the text of an exception behind it.
    return str(_dagster(record).get("orig_message") or record.getMessage())


def _attributes(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    for names, given in ((_ATTRIBUTES, record.__dict__), (_DAGSTER, _dagster(record))):
        for name, outside in names.items():
            if given.get(name) not in (None, ""):
                yield outside, given[name]
    if isinstance(record.exc_info, tuple) and (error := record.exc_info[1]) is not None:
        kind = type(error).__name__
        yield "error.type", kind
        yield "exception.type", kind
        if isinstance(error, UrsaError):
            yield "exception.message", str(error)
        yield "exception.stacktrace", "".join(traceback.format_tb(record.exc_info[2]))


def _dagster(record: logging.LogRecord) -> Mapping[str, Any]:
    told = record.__dict__.get("dagster_meta")
    return told if isinstance(told, Mapping) else {}


def _version() -> str:
    try:
        return version("ursa-pipelines")
    except PackageNotFoundError:
        return "unknown"
