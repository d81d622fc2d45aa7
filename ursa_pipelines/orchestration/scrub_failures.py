"""What becomes of a recording that the scrub has found not to be right: quarantine with the evidence, and, where only
objects are missing of which a source has good copies, sending it again, which lifts it.

What failed is quarantined before anything is done about it, so that a run that is killed leaves the quarantine. A
damaged object is never written over; the quarantine says where a good copy is, and what a person does. What a person
has set aside or waived is told of, and neither sent again nor lifted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import dagster as dg

from ursa_pipelines.errors import UrsaError
from ursa_pipelines.ingest.results_shown import some_shown
from ursa_pipelines.ingest.sources import Source
from ursa_pipelines.ingest.verify import WrongObject
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.maintenance.redrive import Copy, Redriven, look_for_copies, redrive
from ursa_pipelines.maintenance.scrub.reading import Finding
from ursa_pipelines.maintenance.scrub.run import Scrub
from ursa_pipelines.objects.keys import raw_key, uri
from ursa_pipelines.orchestration import checks
from ursa_pipelines.orchestration.partitions import RECORDING, add_partitions, recordings
from ursa_pipelines.orchestration.states import History, Mark, read_histories
from ursa_pipelines.orchestration.telling import materialization
from ursa_pipelines.profiles import Profile

Event = dg.AssetObservation | dg.AssetMaterialization | dg.AssetCheckEvaluation

_SHOWN, _COPIES_TOLD = 200, 3
_FAILED = "sending it again failed"
_SINCE = "; a scrub has found since: "
_CAUSES = {"missing": "ObjectsMissing", "size": "ContentMismatch", "bytes": "ContentMismatch"}


@dataclass(frozen=True)
class Handled:
    """What came of a finding. `mark` is the quarantine it opened, if it was not open already."""

    finding: Finding
    copies: Sequence[Copy] = ()
    redriven: Redriven | None = None
    mark: Mark | None = None
    lifted: bool = False

    @property
    def is_mended(self) -> bool:
        return self.redriven is not None and self.redriven.is_mended

    @property
    def outcome(self) -> str:
        return "mended" if self.is_mended else self.finding.outcome


def handle_failure(
    scrub: Scrub,
    finding: Finding,
    data: DataInterface,
    instance: dg.DagsterInstance,
    sources: Sequence[Source],
    tell: Callable[[Event], None],
) -> Handled:
    """Quarantines a recording that failed, if that is not told already, and sends it again where that mends it."""
    rec_id = finding.rec_id
    compared = [one for one in finding.wrong if one.kind != "manifest"]
    copies, senders = look_for_copies(scrub.context, sources, rec_id, compared)
    history = _history(instance, rec_id)
    known, is_left_alone = history.quarantined, _is_held_by_a_person(history)
    may_be_sent = not is_left_alone and _may_be_sent_again(finding, copies, senders)
    found, mark = _quarantine(finding, copies, scrub, data.profile, may_be_sent=may_be_sent)
    if known is not None and is_left_alone and not _is_by_a_program(known):
        # It stays theirs, so that nothing but a person lifts it.
        mark = replace(mark, reason=f"{known.reason.partition(_SINCE)[0]}{_SINCE}{mark.reason}", by=known.by)
    opened = None if _is_told(known, mark, found, copies) else mark
    if opened is not None:
        tell(_with_evidence(mark, finding, copies))
        _tell_checks(finding, tell)
        if not instance.has_dynamic_partition(str(recordings.name), rec_id):
            add_partitions(instance, [rec_id])
    if not may_be_sent:
        return Handled(finding, copies, None, opened)
    paths = [one.path for one in finding.wrong]
    try:
        data.enable_writes(roles=("raw_rw",))
        redriven = redrive(data.ingest_context(), senders, rec_id, paths)
    except UrsaError as error:
        # Such as a host whose credentials only read: the quarantine stays, and says what to do.
        return Handled(finding, copies, None, _told_why(opened, known, mark, f"{found}; {_FAILED}: {error}", tell))
    if not redriven.is_mended:
        why = f"{found}; {_FAILED}: {redriven.problem}"
        return Handled(finding, copies, redriven, _told_why(opened, known, mark, why, tell))
    scrub.mended(finding)
    where = ", ".join(dict.fromkeys(one.source for one in copies))
    note = f"scrub: {some_shown(paths)} missing in the bucket; sent again from {where} and read there, sound"
    done = materialization(redriven.item, data.profile.buckets.raw)
    metadata = {**done.metadata, "note": dg.MetadataValue.text(note)}
    tell(dg.AssetMaterialization(RECORDING, partition=rec_id, tags=done.tags, metadata=metadata))
    _tell_checks(finding, tell, redriven)
    return Handled(finding, copies, redriven, opened)


def _may_be_sent_again(finding: Finding, copies: Sequence[Copy], senders: Sequence[Source]) -> bool:
    """Whether nothing is wrong but that objects are missing, and sources that may send have each of them."""
    is_missing = bool(finding.wrong) and all(one.kind == "missing" for one in finding.wrong)
    names = {source.name for source in senders}
    is_there = all(one.state == "matches" and one.source in names for one in copies)
    return is_missing and finding.error is None and is_there


def _is_held_by_a_person(history: History) -> bool:
    is_set_aside = history.quarantined is not None and not _is_by_a_program(history.quarantined)
    return is_set_aside or history.waived is not None


def _is_by_a_program(mark: Mark) -> bool:
    # People are told as user@host.
    return mark.by == "ursa" or mark.by.startswith("scrub ")


def _is_told(known: Mark | None, mark: Mark, found: str, copies: Sequence[Copy]) -> bool:
    """Whether the quarantine that is open says this already; that a source has gone since is no news."""
    if known is None:
        return False
    has_good_copy = any(one.state == "matches" for one in copies)
    has_failed = f"; {_FAILED}: " in known.reason
    return known.reason == mark.reason or (found in known.reason and (has_failed or not has_good_copy))


def _told_why(
    opened: Mark | None, known: Mark | None, mark: Mark, reason: str, tell: Callable[[Event], None]
) -> Mark | None:
    """Tells in the quarantine that sending it again has failed, unless it says so already."""
    if known is not None and known.reason == reason:
        return opened
    remedy = "Mend that; the next scrub sends it again by itself."
    told = Mark(mark.rec_id, "quarantined", reason, mark.error_type, remedy, by=mark.by)
    tell(told.observation())
    return told


def lift_if_sound(finding: Finding, scrub: Scrub, instance: dg.DagsterInstance, tell: Callable[[Event], None]) -> bool:
    """Lifts the quarantine of what failed before and is sound now, if a scrub has opened it and nobody waived it."""
    if finding.outcome != "sound" or finding.due.among is None:
        return False
    history = _history(instance, finding.rec_id)
    is_ours = history.quarantined is not None and history.quarantined.by.startswith("scrub ")
    if not is_ours or history.waived is not None:
        return False
    tell(Mark(finding.rec_id, "retried", "read again, and sound now", by=_by(scrub)).observation())
    _tell_checks(finding, tell)
    return True


def _history(instance: dg.DagsterInstance, rec_id: str) -> History:
    return read_histories(instance, [rec_id]).get(rec_id) or History(rec_id)


def _by(scrub: Scrub) -> str:
    return f"scrub {scrub.run[:8]}"


def _quarantine(
    finding: Finding, copies: Sequence[Copy], scrub: Scrub, profile: Profile, *, may_be_sent: bool
) -> tuple[str, Mark]:
    """What was found, and the mark that says so, with what is known of copies and what to do."""
    kinds = [one.kind for one in finding.wrong]
    damaged = [one for one in finding.wrong if one.kind in {"size", "bytes"}]
    good = {one.path: one for one in copies if one.state == "matches"}
    rec_id = finding.rec_id
    if finding.error is not None:
        cause, remedy = type(finding.error).__name__, finding.error.remedy
    elif damaged:
        cause = _CAUSES[damaged[0].kind]
        key = uri(profile.buckets.raw, raw_key(rec_id, damaged[0].path))
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        if all(one.path in good for one in damaged):
            remedy = (
                f"The source's copy is good, and nothing here writes over a stored object. Keep {key}{more} aside for "
                f"whoever looks into it, have the bucket's administrator remove it, then run `ursa retry {rec_id}`: it "
                "is sent again."
            )
        else:
            remedy = (
                f"Nothing here writes over a stored object. Find a good copy of {damaged[0].path}{more} (rig, drives), "
                f"and mount it; then run `ursa scrub` again, which says what to do. If there is none: "
                f'`ursa waive {rec_id} --reason "..."`.'
            )
    elif "missing" in kinds:
        cause = _CAUSES["missing"]
        remedy = (
            "It is sent again by itself."
            if may_be_sent
            else f"Mount a source that has it, then run `ursa ingest {rec_id}` and `ursa retry {rec_id}`; the next "
            "scrub looks for it again by itself."
        )
    elif kinds:
        cause, remedy = "ManifestNotFound", "Compare the stored manifests with those in the recording's directory."
    else:
        cause = "RowsDiffer"
        remedy = (
            f"Compare the row with the manifests by `ursa verify {rec_id}`; if the row is wrong, "
            f"`ursa ingest {rec_id} --overwrite` writes it anew."
        )
    found = f"{some_shown(finding.problems)}; {_last(finding)}"
    reason = "; ".join([found, *(one.told for one in copies[:_COPIES_TOLD])])
    return found, Mark(rec_id, "quarantined", f"{reason}. {remedy}", cause, remedy, by=_by(scrub))


def _last(finding: Finding) -> str:
    due = finding.due
    return (
        f"last verified {_moment(due.sound_at)} by {due.by}" if due.sound_at else "never verified by its bytes before"
    )


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def _with_evidence(mark: Mark, finding: Finding, copies: Sequence[Copy]) -> dg.AssetObservation:
    told = mark.observation()
    evidence = {"evidence": _evidence(finding.wrong, copies)} if finding.wrong else {}
    return dg.AssetObservation(
        RECORDING, partition=mark.rec_id, description=told.description, metadata={**told.metadata, **evidence}
    )


def _evidence(wrong: Sequence[WrongObject], copies: Sequence[Copy]) -> dg.TableMetadataValue:
    at_source = {one.path: one.told for one in copies}
    columns = {
        "path": "string",
        "kind": "string",
        "expected_size": "int",
        "found_size": "int",
        "expected_sha256": "string",
        "found_sha256": "string",
        "etag": "string",
        "copy": "string",
    }
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    **{name: getattr(one, name) for name in columns if name != "copy"},
                    "copy": at_source.get(one.path, ""),
                }
            )
            for one in wrong[:_SHOWN]
        ],
        schema=dg.TableSchema([dg.TableColumn(name, kind) for name, kind in columns.items()]),
    )


def _tell_checks(finding: Finding, tell: Callable[[Event], None], redriven: Redriven | None = None) -> None:
    """The verdicts on rows and objects, which are all that was looked at."""
    looked = redriven.found if redriven else finding.found or finding.error
    if looked is None:
        return
    for one in checks.evaluations({finding.rec_id: looked}, {}):
        if one.check_name in {checks.ROWS, checks.OBJECTS}:
            tell(one)


def read_again_of(finding: Finding) -> dg.AssetObservation:
    """What is told of a sound recording on its partition."""
    value = dg.MetadataValue
    found, before = finding.found, finding.due.sound_at
    return dg.AssetObservation(
        RECORDING,
        partition=finding.rec_id,
        description="Read again: sound",
        metadata={
            "files": value.int(found.files if found else 0),
            "bytes_read": value.int(finding.cost.bytes),
            "requests": value.int(finding.cost.requests),
            "verified_before": value.text(_moment(before) if before else "never"),
            **({"remarks": value.text(some_shown(finding.remarks))} if finding.remarks else {}),
        },
    )
