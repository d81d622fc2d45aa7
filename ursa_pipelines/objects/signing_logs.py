"""Keeps what signs a request out of every log: at DEBUG botocore writes session tokens and key ids (fault 75)."""

from __future__ import annotations

import logging

_TELL_OF_SIGNATURES = ("botocore.auth", "botocore.endpoint")


def keep_signatures_out_of_logs() -> None:
    """Drops what these loggers say at DEBUG, in the whole process and whatever its logging is set to."""
    for name in _TELL_OF_SIGNATURES:
        # One that is there already is not added again.
        logging.getLogger(name).addFilter(_is_above_debug)


def _is_above_debug(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG
