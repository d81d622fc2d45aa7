"""Which objects a download of query results is about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ursa_pipelines.catalog.results import QueryResult
from ursa_pipelines.errors import ObjectsMissing, StoreUnavailable, UrsaError
from ursa_pipelines.objects.destination import WantedFile
from ursa_pipelines.objects.proof import stated_digest
from ursa_pipelines.objects.reading import DaemonExecutor
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.objects.stored import StoredRecording, read_stored
from ursa_pipelines.recordings.identity import parse_rec_id
from ursa_pipelines.recordings.layout import some, worker_of
from ursa_pipelines.recordings.merge import merge_manifests
from ursa_pipelines.recordings.rows import ModalityRow

_AT_ONCE = 8
_LATER = "Check the network, then run it again; what is there is kept."


def wanted_files(raw: Bucket, results: Iterable[QueryResult]) -> list[WantedFile]:
    """The segments of the results' modalities, each with its digest.

    That is the one its manifest attests, else the one of our commit marker, else what the object's metadata state; it
    is None where nothing does.

    Raises `ObjectsMissing` if the bucket has fewer of them than the catalog says.
    """
    files: list[WantedFile] = []
    for _, wanted in wanted_of_each(raw, results):
        if isinstance(wanted, UrsaError):
            raise wanted
        files.extend(wanted)
    return files


def wanted_of_each(
    raw: Bucket, results: Iterable[QueryResult]
) -> Iterator[tuple[QueryResult, list[WantedFile] | UrsaError]]:
    """Each result with its segments, or with what is wrong with it; several are looked up at once."""
    results = list(results)
    with DaemonExecutor(_AT_ONCE, "wanted") as pool, DaemonExecutor(_AT_ONCE, "digests") as heads:
        futures = [pool.submit(_wanted_of, raw, result, heads) for result in results]
        try:
            for result, future in zip(results, futures, strict=True):
                yield result, future.result()
        finally:
            for future in futures:
                future.cancel()


def _wanted_of(raw: Bucket, result: QueryResult, heads: DaemonExecutor) -> list[WantedFile] | UrsaError:
    rec_id, count = result.recording.rec_id, sum(row.segment_count for row in result.modalities.values())
    if rec_id is None:
        return _without_rec_id(result, count) if count else []
    if not result.modalities:
        return []
    try:
        # A row may say anything; as a prefix in the bucket, and as a directory, only a rec_id is meant.
        parse_rec_id(str(rec_id))
        stored = read_stored(raw, rec_id)
        attested = _attested(stored)
        wanted = [one for name, row in result.modalities.items() for one in _segments(stored, attested, name, row)]
        unknown = [one for one in wanted if one.sha256 is None]
        stated = dict(zip(unknown, heads.map(lambda one: stated_digest(raw, one.key), unknown), strict=True))
        return [replace(one, sha256=stated.get(one, one.sha256)) for one in wanted]
    except StoreUnavailable as error:
        return StoreUnavailable(error.problem, recording=rec_id, place=error.place, remedy=_LATER)
    except UrsaError as error:
        return error


def _without_rec_id(result: QueryResult, count: int) -> ObjectsMissing:
    return ObjectsMissing(
        f"{count} segments are catalogued, but the row has no rec_id that says where in the bucket they are",
        place=f"recording_hash {result.recording_hash}",
        remedy="Whoever registered the row must name it in metadata, as manifest_recording_id.",
    )


def _attested(stored: StoredRecording) -> dict[str, str | None]:
    """The digest of each file that a manifest lists."""
    merged = merge_manifests(stored.rec_id, stored.manifests)
    return {path: file.sha256 for path, file in merged.files.items()} if merged else {}


def _segments(
    stored: StoredRecording, attested: dict[str, str | None], name: str, row: ModalityRow
) -> list[WantedFile]:
    worker = f"{row.modality}_{row.worker_id}" if row.worker_id else row.modality
    segments = stored.segments
    listed = {path for path in attested if worker_of(path) == worker}
    paths = sorted(path for path in segments if worker_of(path) == worker and (path in listed or not listed))
    if len(paths) < row.segment_count:
        raise ObjectsMissing(
            f"{row.segment_count} segments are catalogued, but the bucket has {len(paths)}",
            recording=stored.rec_id,
            place=some(sorted(listed - set(paths))) or worker,
        )
    marker = stored.marker

    def digest_of(path: str) -> str | None:
        return attested.get(path) or (marker.digest_of(path) if marker else None)

    return [
        WantedFile(stored.rec_id, name, path, segments[path].size, digest_of(path), segments[path].etag)
        for path in paths
    ]
