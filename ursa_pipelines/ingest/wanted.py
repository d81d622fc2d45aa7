"""Which objects a download of query results is about."""

from __future__ import annotations

from collections.abc import Iterable

from ursa_pipelines.catalog.results import QueryResult
from ursa_pipelines.errors import ObjectsMissing
from ursa_pipelines.objects.download import WantedFile
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.objects.stored import read_stored
from ursa_pipelines.recordings.layout import worker_of
from ursa_pipelines.recordings.merge import merge_manifests


def wanted_files(raw: Bucket, results: Iterable[QueryResult]) -> list[WantedFile]:
    """The segments of the results' modalities, each with the digest its manifest attests.

    Raises `ObjectsMissing` if the bucket has fewer of them than the catalog says.
    """
    wanted = []
    for result in results:
        rec_id = result.recording.rec_id
        if rec_id is None:
            continue
        stored = read_stored(raw, rec_id)
        merged = merge_manifests(rec_id, stored.manifests)
        for name, row in result.modalities.items():
            worker = f"{row.modality}_{row.worker_id}" if row.worker_id else row.modality
            listed = {path: file for path, file in merged.files.items() if worker_of(path) == worker} if merged else {}
            segments = {
                path: info
                for path, info in stored.segments.items()
                if worker_of(path) == worker and (path in listed or not listed)
            }
            if len(segments) < row.segment_count:
                lost = ", ".join(path for path in listed if path not in segments)
                raise ObjectsMissing(
                    f"{row.segment_count} segments are catalogued, but the bucket has {len(segments)}",
                    recording=rec_id,
                    place=lost or worker,
                )
            for path, info in sorted(segments.items()):
                sha256 = listed[path].sha256 if path in listed else None
                wanted.append(WantedFile(rec_id, name, path, info.size, sha256))
    return wanted
