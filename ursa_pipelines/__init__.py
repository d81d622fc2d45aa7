"""Recordings off a NAS or USB drive into object storage and a catalog.

`from ursa_pipelines import DataInterface` is the Python door; `ursa` the command; `ursa dev` the Dagster UI.
Names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ursa_pipelines.catalog.results import QueryResult, QueryResultList
    from ursa_pipelines.errors import UrsaError
    from ursa_pipelines.ingest.batch import BatchItem
    from ursa_pipelines.ingest.context import UploadProgress
    from ursa_pipelines.ingest.register import IngestResult
    from ursa_pipelines.interface import DataInterface
    from ursa_pipelines.objects.data import Data, RawBytes
    from ursa_pipelines.objects.download import DownloadProgress
    from ursa_pipelines.recordings.rows import ModalityRow, ParticipantRow, RecordingRow, StorageFormat

_HOMES = {
    "BatchItem": "ursa_pipelines.ingest.batch",
    "Data": "ursa_pipelines.objects.data",
    "DataInterface": "ursa_pipelines.interface",
    "DownloadProgress": "ursa_pipelines.objects.download",
    "IngestResult": "ursa_pipelines.ingest.register",
    "ModalityRow": "ursa_pipelines.recordings.rows",
    "ParticipantRow": "ursa_pipelines.recordings.rows",
    "QueryResult": "ursa_pipelines.catalog.results",
    "QueryResultList": "ursa_pipelines.catalog.results",
    "RawBytes": "ursa_pipelines.objects.data",
    "RecordingRow": "ursa_pipelines.recordings.rows",
    "StorageFormat": "ursa_pipelines.recordings.rows",
    "UploadProgress": "ursa_pipelines.ingest.context",
    "UrsaError": "ursa_pipelines.errors",
}

__all__ = [
    "BatchItem",
    "Data",
    "DataInterface",
    "DownloadProgress",
    "IngestResult",
    "ModalityRow",
    "ParticipantRow",
    "QueryResult",
    "QueryResultList",
    "RawBytes",
    "RecordingRow",
    "StorageFormat",
    "UploadProgress",
    "UrsaError",
]


# Without a handler of the application's, warnings would go to standard error beside the results that tell the same.
logging.getLogger("ursa").addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
