"""Which objects a download of query results is about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from ursa_pipelines.catalog.results import QueryResult
from ursa_pipelines.errors import ObjectsMissing, UrsaError
from ursa_pipelines.objects.destination import WantedFile
from ursa_pipelines.objects.reading import DaemonExecutor
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.objects.stored import read_stored
from ursa_pipelines.recordings.identity import parse_rec_id
from ursa_pipelines.recordings.layout import some, worker_of
from ursa_pipelines.recordings.merge import merge_manifests
from ursa_pipelines.recordings.rows import ModalityRow

_AT_ONCE = 8


def wanted_files(raw: Bucket, results: Iterable[QueryResult]) -> list[WantedFile]:
    """The segments of the results' modalities, each with the digest its manifest attests.

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
    with DaemonExecutor(_AT_ONCE, "wanted") as pool:
        futures = [pool.submit(_wanted_of, raw, result) for result in results]
        try:
            for result, future in zip(results, futures, strict=True):
                yield result, future.result()
        finally:
            for future in futures:
                future.cancel()


def _wanted_of(raw: Bucket, result: QueryResult) -> list[WantedFile] | UrsaError:
    rec_id = result.recording.rec_id
    if rec_id is None or not result.modalities:
        return []
    try:
        # A row may say anything; as a prefix in the bucket, and as a directory, only a rec_id is meant.
        parse_rec_id(str(rec_id))
        stored = read_stored(raw, rec_id)
        merged = merge_manifests(rec_id, stored.manifests)
        attested = {path: file.sha256 for path, file in merged.files.items()} if merged else {}
        found = partial(_segments, rec_id, {path: (info.size, info.etag) for path, info in stored.segments.items()})
        return [one for name, row in result.modalities.items() for one in found(attested, name, row)]
    except UrsaError as error:
        return error


def _segments(
    rec_id: str,
    stored: dict[str, tuple[int, str]],
    attested: dict[str, str | None],
    name: str,
    row: ModalityRow,
) -> list[WantedFile]:
    worker = f"{row.modality}_{row.worker_id}" if row.worker_id else row.modality
    listed = {path for path in attested if worker_of(path) == worker}
    paths = sorted(path for path in stored if worker_of(path) == worker and (path in listed or not listed))
    if len(paths) < row.segment_count:
        raise ObjectsMissing(
            f"{row.segment_count} segments are catalogued, but the bucket has {len(paths)}",
            recording=rec_id,
            place=some(sorted(listed - set(paths))) or worker,
        )
    return [WantedFile(rec_id, name, path, stored[path][0], attested.get(path), stored[path][1]) for path in paths]
