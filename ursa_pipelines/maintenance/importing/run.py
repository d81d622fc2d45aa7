"""Brings the tables of another catalog into this one (DESIGN section 6; columns: ursa-facts sections 6.2 and 6.3).

1. `plan_import` stages the tables, puts each recording together, looks for its bytes and its entry, and decides what
   becomes of it. It writes nothing.
2. `apply_import` writes what the plan found new (or, told to overwrite, different), each recording in one
   compare-and-swap, with a policy that leaves alone what somebody else has written since.

A recording is imported whole or not at all. One with a raw prefix that lies in another bucket, or below which there is
no object, is refused: no row comes before its bytes. Ids of participants that tell the name are replaced. The table
`events` is left out: this catalog tells of the writes that it has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from ursa_pipelines import failpoints
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.catalog.edits import read_edit
from ursa_pipelines.catalog.entries import Writer
from ursa_pipelines.catalog.writing import Change, Registration
from ursa_pipelines.errors import UrsaError
from ursa_pipelines.maintenance.importing.checks import RecIds, Seen, look_up, missing_bytes, take_over
from ursa_pipelines.maintenance.importing.plan import Difference, Failure, ImportPlan, ImportReport, Staging
from ursa_pipelines.maintenance.importing.recordings import Imported, Problem, Refused, recordings_in
from ursa_pipelines.maintenance.importing.rows import IMPORTED_ID
from ursa_pipelines.maintenance.importing.tables import FILE, ROW, SourceTable, buckets_for, find_tables, read, stage
from ursa_pipelines.maintenance.participants_edits import apply_edit, plan_merge
from ursa_pipelines.objects.store import Bucket
from ursa_pipelines.recordings.rows import ParticipantRow

Told = Callable[[str, int, int | None], None]
"""Is told what is done ("reading recordings", "checking", "writing"), how many of it, and of how many if known."""

_STAGED = ("recordings", "modalities")
_AT_ONCE = 16
_CHECKED_AT_ONCE = 512
_WRITTEN_AT_ONCE = 1_000

_T = TypeVar("_T")


def plan_import(
    catalog: Catalog,
    raw: Bucket,
    source: Path | Mapping[str, Path],
    *,
    overwrite: bool = False,
    allow_missing_bytes: bool = False,
    progress: Told | None = None,
) -> ImportPlan:
    """What an import of the tables in `source` (see `find_tables`) would do; writes nothing.

    Raises `UrsaError` for tables that cannot be read; what is wrong with single rows is in the plan.
    """
    tables = find_tables(source)
    if "recordings" not in tables:
        raise UrsaError("there is no table of recordings", place=str(source), remedy="Check the path.")
    used = {name: tables[name] for name in (*_STAGED, "participants") if name in tables}
    staging = Staging(used, TemporaryDirectory(prefix="ursa-import-"))
    plan = ImportPlan(staging, overwrite, tuple(sorted(tables.keys() - used.keys())))
    tell = progress or _tell_nobody
    try:
        _stage(plan, tell)
        is_empty = next(iter(catalog.assets.list_objects(f"{catalog.prefix}/entries/")), None) is None
        listed = _examine(plan, None if is_empty else catalog, raw, allow_missing_bytes, tell)
        _compare_participants(plan, catalog, listed)
    except BaseException:
        plan.close()
        raise
    return plan


def apply_import(catalog: Catalog, plan: ImportPlan, writer: Writer, *, progress: Told | None = None) -> ImportReport:
    """Writes what the plan decided; what has other values in the catalog by now stays, and is told.

    Folds the tables if more than 256 recordings are in no table yet.
    """
    report, done = ImportReport(), 0
    for bucket in range(plan.staging.buckets):
        wanted = plan.staging.kept(bucket)
        if not wanted:
            continue
        found = (one for one in _recordings(plan, bucket) if isinstance(one, Imported))
        for chunk in _chunks((one for one in found if one.recording_hash in wanted), _WRITTEN_AT_ONCE):
            changes = [_change(one, writer, plan, wanted[one.recording_hash]) for one in chunk]
            outcomes = catalog.write_many(changes)
            failpoints.reached("import.chunk_written")
            for one, outcome in zip(chunk, outcomes, strict=True):
                _count(report, one.recording_hash, outcome)
            done += len(chunk)
            (progress or _tell_nobody)("writing", done, plan.new + plan.replaced)
    for participant_id, target in plan.merges.items():
        try:
            apply_edit(catalog, plan_merge(catalog, participant_id, target), writer)
            failpoints.reached("import.merge_written")
            report.merged_participants += 1
        except UrsaError as error:
            report.failed.add(Failure(participant_id, str(error)))
    _fold(catalog, writer, report)
    return report


def _stage(plan: ImportPlan, tell: Told) -> None:
    staging = plan.staging
    if "participants" in staging.tables:
        _read_participants(plan, staging.tables["participants"])
    staged = {name: staging.tables[name] for name in _STAGED if name in staging.tables}
    staging.buckets = buckets_for(staged)
    for name, table in staged.items():

        def told(rows: int, name: str = name, table: SourceTable = table) -> None:
            plan.rows[name] = rows
            tell(f"reading {name}", rows, table.rows)

        told(0)
        stage(table, staging.path, staging.buckets, told)


def _read_participants(plan: ImportPlan, table: SourceTable) -> None:
    participants = plan.staging.participants
    plan.rows["participants"] = 0
    for piece in read(table):
        plan.rows["participants"] += len(piece)
        for record in piece.to_pylist():
            try:
                participants.add(record, ours=table.is_ours)
            except ValueError as error:
                plan.note(Problem("invalid", str(error), str(table.files[record[FILE]]), record[ROW]))
    plan.renamed = participants.renamed


def _examine(plan: ImportPlan, catalog: Catalog | None, raw: Bucket, allow_missing_bytes: bool, tell: Told) -> set[str]:
    """Decides on every recording, of which an empty `catalog` (None) has none; the participants of those to write."""
    rec_ids, participants = RecIds(), set[str]()

    def look(one: Imported) -> tuple[list[Problem], Seen | None]:
        missing = missing_bytes(raw, one)
        if catalog is None or (missing and not allow_missing_bytes):
            return missing, None
        return missing, look_up(catalog, one, has_modalities=plan.staging.has_modalities)

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="import") as pool:
        for bucket in range(plan.staging.buckets):
            kept: dict[str, str | None] = {}
            for chunk in _chunks(_recordings(plan, bucket), _CHECKED_AT_ONCE):
                for refused in (one for one in chunk if isinstance(one, Refused)):
                    _refuse(plan, refused)
                found = [one for one in chunk if isinstance(one, Imported)]
                for one, (missing, seen) in zip(found, pool.map(look, found), strict=True):
                    if _decide(plan, one, missing, seen.columns if seen else None, allow_missing_bytes):
                        kept[one.recording_hash] = seen.fingerprint if seen else None
                        participants.update(one.rows.recording.participant_ids)
                        rec_ids.add(one, is_new=seen is None)
                tell("checking", plan.recordings, plan.rows["recordings"])
            plan.staging.keep(bucket, kept)
    _withhold(plan, rec_ids)
    return participants


def _decide(
    plan: ImportPlan, one: Imported, missing: list[Problem], columns: tuple[str, ...] | None, allow_missing_bytes: bool
) -> bool:
    """Counts a recording; whether it is to be written."""
    plan.recordings += 1
    plan.old_names += one.old_names
    plan.without_rec_id += one.rec_id is None
    plan.missing_bytes += bool(missing)
    if missing and not allow_missing_bytes:
        plan.refused += 1
        plan.note(*missing)
    elif columns is None:
        plan.new += 1
        return True
    elif not columns:
        plan.equal += 1
    elif plan.overwrite and "rec_id" not in columns:
        plan.replaced += 1
        return True
    else:
        plan.conflicts.add(Difference(one.recording_hash, columns))
    return False


def _refuse(plan: ImportPlan, refused: Refused) -> None:
    if refused.problems[0].kind != "orphan":
        plan.recordings += 1
        plan.refused += 1
    plan.note(*refused.problems)


def _withhold(plan: ImportPlan, rec_ids: RecIds) -> None:
    for problem, is_new in rec_ids.shared():
        plan.note(problem)
        plan.staging.withheld.add(str(problem.recording_hash))
        plan.refused += 1
        plan.new -= is_new
        plan.replaced -= not is_new


def _compare_participants(plan: ImportPlan, catalog: Catalog, written: set[str]) -> None:
    known = {row.participant_id: row for row in catalog.list_participants()}
    participants = plan.staging.participants
    for participant_id, row in participants.by_id().items():
        if participant_id not in known:
            plan.participants_without_recording += participant_id not in written
        else:
            columns = _participant_columns(known[participant_id], row, participant_id in written)
            if columns:
                plan.participant_conflicts.add(Difference(participant_id, columns))
    for source_id, source_target in participants.merged.items():
        participant_id, target = participants.id_of(source_id), participants.id_of(source_target)
        edit = read_edit(catalog.assets, catalog.prefix, participant_id)
        if edit is None and participant_id != target:
            plan.merges[participant_id] = target
        elif edit is not None and edit[0].merged_into != target:
            plan.participant_conflicts.add(Difference(participant_id, ("merged_into",)))


def _participant_columns(known: ParticipantRow, row: ParticipantRow, is_written: bool) -> tuple[str, ...]:
    here, there = known.metadata or {}, row.metadata or {}
    columns = sorted(f"metadata.{key}" for key in there if key != IMPORTED_ID and here.get(key) != there[key])
    # Of two enrolments the earlier one counts, so that a recording that is written brings its own.
    return (*columns, *(["enrolled_at"] if row.enrolled_at < known.enrolled_at and not is_written else []))


def _change(one: Imported, writer: Writer, plan: ImportPlan, seen: str | None) -> Change:
    resolve = take_over(one.rows, overwrite=plan.overwrite, has_modalities=plan.staging.has_modalities, seen=seen)
    return Change(
        recording_hash=one.recording_hash,
        hash_is_stated=True,
        rec_id=one.rec_id,
        resolve_for=lambda _: resolve,
        op="import:overwrite" if plan.overwrite else "import",
        writer=writer,
    )


def _count(report: ImportReport, recording_hash: str, outcome: Registration | UrsaError) -> None:
    if isinstance(outcome, UrsaError):
        report.failed.add(Failure(recording_hash, str(outcome)))
    else:
        setattr(report, outcome.outcome, getattr(report, outcome.outcome) + 1)


def _fold(catalog: Catalog, writer: Writer, report: ImportReport) -> None:
    try:
        folded = catalog.fold_if_many(writer)
    except UrsaError as error:
        # The rows are written and are read from the tail until a later fold.
        report.fold_problem = str(error)
    else:
        report.folded = folded.entries if folded else 0


def _recordings(plan: ImportPlan, bucket: int) -> Iterator[Imported | Refused]:
    staging = plan.staging
    return recordings_in(staging.path, staging.tables, bucket, staging.participants)


def _chunks(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _tell_nobody(_what: str, _done: int, _of: int | None) -> None:
    return
