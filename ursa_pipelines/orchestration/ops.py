"""The working ops. Each takes the whole batch, hands on small items, and never raises for a single recording."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import dagster as dg
from pydantic import Field

from ursa_pipelines.errors import ProfileInvalid, UrsaError
from ursa_pipelines.ingest.batch import BatchItem, StepName, ended_by, fold_if_many
from ursa_pipelines.ingest.verify import verify_many
from ursa_pipelines.orchestration import checks, notices
from ursa_pipelines.orchestration.partitions import RECORDING
from ursa_pipelines.orchestration.resources import UrsaResource, is_by_arrival
from ursa_pipelines.orchestration.sites import SITE
from ursa_pipelines.orchestration.states import read_histories
from ursa_pipelines.orchestration.telling import Progress, mark, materialization, table

_FINGERPRINTS_KEPT = 8


class IngestConfig(dg.Config):
    """What an operator may set when launching a run; the defaults suit every ordinary ingest."""

    overwrite: bool = Field(
        default=False,
        description="Replace the catalog's rows by what this source says. Objects in the bucket are never replaced.",
    )
    allow_partial: bool = Field(
        default=False,
        description="Ingest what is there of a recording although listed files are missing and nothing says that "
        "another node has them. Without it such a recording fails, naming the files.",
    )
    dry_run: bool = Field(
        default=False,
        description="Write nothing: the run's table says what would be done, and the run succeeds.",
    )


@dataclass(frozen=True)
class BatchState:
    """What passes from op to op: how the run was configured, and how far each recording has come.

    `run_id` is the run in which it came there: a re-execution is handed what an earlier run left.
    """

    run_id: str
    overwrite: bool
    allow_partial: bool
    dry_run: bool
    items: Sequence[BatchItem]


def make_discover(arrivals: Sequence[str]) -> dg.OpDefinition:
    """The op `discover`, which comes after the arrivals of these names."""

    @dg.op(
        name="discover",
        ins={name: dg.In(dg.Nothing) for name in arrivals},
        description="Looks at each recording's directories and at the bucket, and refuses what must not be ingested.",
    )
    def _discover(context: dg.OpExecutionContext, config: IngestConfig, ursa: UrsaResource) -> BatchState:
        items = _begun(context)
        batch = BatchState(context.run_id, config.overwrite, config.allow_partial, config.dry_run, items)
        if config.dry_run:
            planned = ursa.plan(context, overwrite=config.overwrite, allow_partial=config.allow_partial)
            return replace(batch, items=planned)
        discovered = _advance(context, ursa, "discover", batch)
        notices.begin(context, ursa.data(run_id=context.run_id), discovered.items)
        return discovered

    return _discover


@dg.op(name="hash", description="Hashes the files that no manifest attests; attested ones are hashed as they are sent.")
def hash_unattested(context: dg.OpExecutionContext, ursa: UrsaResource, batch: BatchState) -> BatchState:
    return _advance(context, ursa, "hash", batch)


@dg.op(description="Keeps a rig's manifest byte for byte; makes one where none is usable.")
def reconstruct_manifest(context: dg.OpExecutionContext, ursa: UrsaResource, batch: BatchState) -> BatchState:
    return _advance(context, ursa, "reconstruct_manifest", batch)


@dg.op(pool="upload", description="Sends what the bucket lacks, proves what it has, then stores the manifest.")
def upload(context: dg.OpExecutionContext, ursa: UrsaResource, batch: BatchState) -> BatchState:
    return _advance(context, ursa, "upload", batch)


@dg.op(pool="catalog", description="Writes the rows, each recording's in one compare-and-swap.")
def register(context: dg.OpExecutionContext, ursa: UrsaResource, batch: BatchState) -> BatchState:
    registered = _advance(context, ursa, "register", batch)
    if any(item.state == "registered" for item in registered.items):
        fold_if_many(ursa.data(run_id=context.run_id).ingest_context())
    return registered


@dg.op(out=dg.Out(dg.Nothing, is_required=False), description="Shows the batch as a table; fails if a recording did.")
def report(context: dg.OpExecutionContext, ursa: UrsaResource, batch: BatchState):
    items = batch.items
    if batch.run_id != context.run_id:
        # A re-execution from failure begins here: it takes again what an earlier run did not bring to an end.
        items = _advance(context, ursa, "register", batch).items
        again = {item.rec_id for item in batch.items if item.state != "registered"}
        look_at(context, ursa, [item.rec_id for item in items if item.status == "OK" and item.rec_id in again])
    # No output is yielded: it would materialize every partition of the run.
    yield from told(context, items, is_dry=batch.dry_run)


@dg.op(
    out={name: dg.Out(is_required=False) for name in checks.NAMES},
    description="Looks at rows, manifests and objects of the registered recordings again, all four checks at once.",
)
def check(context: dg.OpExecutionContext, ursa: UrsaResource, batch: BatchState):
    # The evaluation of a single recording is its verdict; only a batch gets one for the whole besides, without which
    # Dagster would show the checks as not executed. An event costs about as much as a small recording's ingest: where
    # all is well with a new recording of a batch, the verdict of the batch says so.
    # Where a recording failed, Dagster would call every check failed that says nothing; what is known of a recording
    # that was registered before stays.
    if batch.dry_run:
        return
    is_batch = len(batch.items) > 1
    failed = [item.rec_id for item in batch.items if item.status == "FAIL"]
    new = {item.rec_id for item in batch.items if is_batch and not failed and item.outcome == "created"}
    evaluated = look_at(context, ursa, [item.rec_id for item in batch.items if item.recording_hash], quiet=new)
    known = read_histories(context.instance, failed)
    never = [rec_id for rec_id in failed if rec_id not in known or known[rec_id].registered_at is None]
    for one in checks.not_looked_at(never):
        context.log_event(one)  # type: ignore[arg-type] # as in put_verdicts
    if is_batch:
        yield from checks.verdicts_of_batch(evaluated)


def look_at(
    context: dg.OpExecutionContext, ursa: UrsaResource, rec_ids: Sequence[str], *, quiet: Collection[str] = ()
) -> list[dg.AssetCheckEvaluation]:
    """Checks recordings; as `put_verdicts`."""
    return put_verdicts(context, verify_many(ursa.data(run_id=context.run_id).reading_context, rec_ids), quiet=quiet)


def put_verdicts(
    context: dg.OpExecutionContext, looked: checks.Looked, *, quiet: Collection[str] = ()
) -> list[dg.AssetCheckEvaluation]:
    """Puts the verdict of each check on the partitions of the recordings, of `quiet` ones only if something is wrong.

    Returns all of them.
    """
    evaluated = list(checks.evaluations(looked, _waived(context, looked)))
    for one in evaluated:
        if one.passed and one.partition in quiet:
            continue
        context.log_event(one)  # type: ignore[arg-type] # it takes them; its type was forgotten
    return evaluated


def told(
    context: dg.OpExecutionContext, items: Sequence[BatchItem], *, is_dry: bool = False
) -> Iterator[dg.AssetObservation]:
    """The batch as a table, and a mark for each recording that failed or waits, unless all of it was only planned.

    Raises `dg.Failure` in the end if a recording failed.
    """
    shown = table(items)
    counts = Counter({"OK": "ok", "FAIL": "failed", "SKIP": "waiting or only planned"}[item.status] for item in items)
    told_of_all = ", ".join(f"{count} {what}" for what, count in counts.most_common())
    description = f"{len(items)} recordings: {told_of_all}"
    yield dg.AssetObservation(asset_key=RECORDING, description=description, metadata={"recordings": shown})
    if is_dry:
        return
    for item in items:
        if item.state in {"failed", "waiting"}:
            yield mark(item, context.run_id).observation()
    failed = [item for item in items if item.status == "FAIL"]
    if failed:
        raise dg.Failure(
            description="\n".join(item.reason for item in failed),
            metadata={"failed": len(failed), "recordings": shown},
            allow_retries=False,
        )


def _advance(context: dg.OpExecutionContext, ursa: UrsaResource, step: StepName, batch: BatchState) -> BatchState:
    if batch.dry_run:
        return batch
    items = batch.items
    if batch.run_id != context.run_id:
        items = [item if item.state in {"going", "held", "registered"} else BatchItem(item.rec_id) for item in items]
    try:
        rec_ids = [item.rec_id for item in items]
        work = ursa.batch(context, rec_ids, overwrite=batch.overwrite, allow_partial=batch.allow_partial)
    except ProfileInvalid:
        raise
    except UrsaError as error:
        # Not even the store could be opened: nothing is wrong with any recording, and none has been looked at.
        context.log.error("%s", error)
        ended = [ended_by(error, item) if item.state == "going" else item for item in items]
        return replace(batch, run_id=context.run_id, items=ended)
    bucket = ursa.data(run_id=context.run_id).profile.buckets.raw
    before = {item.rec_id for item in items if item.state == "going"}
    work.on_progress = Progress(context).tell
    work.on_registered = lambda item: context.log_event(materialization(_with_other_sites(context, item), bucket))
    advanced = work.step(step, items)
    for item in advanced:
        if item.rec_id in before and item.state in {"failed", "waiting"}:
            context.log.warning("%s %s", item.status, item.reason)
    return replace(batch, run_id=context.run_id, items=advanced)


def _with_other_sites(context: dg.OpExecutionContext, item: BatchItem) -> BatchItem:
    """The item with the newest fingerprints of earlier runs, too: what another site has of it is not changed."""
    if SITE not in context.run.tags:
        return item
    before = read_histories(context.instance, [item.rec_id]).get(item.rec_id)
    earlier = (before.fingerprint or "").split("+") if before else []
    known = [one for one in dict.fromkeys([*item.fingerprint.split("+"), *earlier]) if one]
    return replace(item, fingerprint="+".join(known[:_FINGERPRINTS_KEPT]))


def _begun(context: dg.OpExecutionContext) -> list[BatchItem]:
    """The recordings of the run. What a person has set aside since it arrived, only a person takes up."""
    rec_ids = context.partition_keys
    held = read_histories(context.instance, rec_ids) if is_by_arrival(context) else {}
    return [
        BatchItem(rec_id, state="held", reason=f"{rec_id}: it is set aside; `ursa retry` takes it up again")
        if rec_id in held and held[rec_id].is_held
        else BatchItem(rec_id)
        for rec_id in rec_ids
    ]


def _waived(context: dg.OpExecutionContext, looked: checks.Looked) -> Mapping[str, str]:
    lacking = [rec_id for rec_id, found in looked.items() if getattr(found, "nodes_missing", ())]
    histories = read_histories(context.instance, lacking)
    return {rec_id: one.waived.reason or one.waived.by for rec_id, one in histories.items() if one.waived}
