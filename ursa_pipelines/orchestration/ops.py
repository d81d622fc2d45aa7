"""The working ops. Each takes the whole batch, hands on small items, and never raises for a single recording."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import dagster as dg

from ursa_pipelines.errors import UrsaError
from ursa_pipelines.ingest.batch import BatchItem, StepName, fold_if_many
from ursa_pipelines.objects.keys import marker_key, recording_prefix, uri
from ursa_pipelines.orchestration.partitions import RECORDING
from ursa_pipelines.orchestration.resources import UrsaResource

CHECK = "rows_and_objects_agree"


class IngestConfig(dg.Config):
    """What an operator may set when launching a run; the defaults suit every ordinary ingest."""

    overwrite: bool = False
    allow_partial: bool = False


@dataclass(frozen=True)
class BatchState:
    """What passes from op to op: how the run was configured, and how far each recording has come."""

    overwrite: bool
    allow_partial: bool
    items: Sequence[BatchItem]


def make_discover(arrivals: Sequence[str]) -> dg.OpDefinition:
    """The op `discover`, which comes after the arrivals of these names."""

    @dg.op(
        name="discover",
        ins={name: dg.In(dg.Nothing) for name in arrivals},
        description="Looks at each recording's directories and at the bucket, and refuses what must not be ingested.",
    )
    def _discover(context: dg.OpExecutionContext, config: IngestConfig, ursa: UrsaResource) -> BatchState:
        items = [BatchItem(rec_id) for rec_id in context.partition_keys]
        return _advance(context, ursa, "discover", BatchState(config.overwrite, config.allow_partial, items))

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
    bucket = ursa.data(run_id=context.run_id).profile.buckets.raw
    for item in registered.items:
        if item.status == "OK":
            context.log_event(_materialization(item, bucket))
    fold_if_many(ursa.data(run_id=context.run_id).ingest_context())
    return registered


@dg.op(out=dg.Out(dg.Nothing, is_required=False), description="Shows the batch as a table; fails if a recording did.")
def report(context: dg.OpExecutionContext, ursa: UrsaResource, batch: BatchState):
    items = list(batch.items)
    if context.run.parent_run_id is not None:
        # Failures travel as values, so a re-execution from failure begins here: it takes the failed ones again.
        work = ursa.batch(context, overwrite=batch.overwrite, allow_partial=batch.allow_partial)
        bucket = ursa.data(run_id=context.run_id).profile.buckets.raw
        for position, item in enumerate(items):
            if item.status == "FAIL":
                items[position] = work.run(item.rec_id)
                if items[position].status == "OK":
                    yield _materialization(items[position], bucket)
    table = _table(items)
    yield dg.AssetObservation(asset_key=RECORDING, metadata={"recordings": table})
    failed = [item for item in items if item.status == "FAIL"]
    if failed:
        raise dg.Failure(
            description="\n".join(item.reason for item in failed),
            metadata={"failed": len(failed), "recordings": table},
            allow_retries=False,
        )


@dg.op(
    out=dg.Out(is_required=False),
    description="Reads rows, manifests and objects of the registered recordings again and compares them.",
)
def rows_and_objects_agree(context: dg.OpExecutionContext, ursa: UrsaResource, batch: BatchState):
    # The evaluation of a single recording is its verdict; only a batch gets one for the whole besides, without which
    # Dagster would show the check as not executed.
    data = ursa.data(run_id=context.run_id)
    disagreeing: dict[str, list[str]] = {}
    for item in batch.items:
        if item.status != "OK":
            continue
        try:
            problems = list(data.verify(item.rec_id).problems)
        except UrsaError as error:
            problems = [str(error)]
        if problems:
            disagreeing[item.rec_id] = problems
        yield dg.AssetCheckEvaluation(
            asset_key=RECORDING,
            check_name=CHECK,
            partition=item.rec_id,
            passed=not problems,
            metadata={"problems": problems},
        )
    if len(batch.items) > 1:
        yield dg.AssetCheckResult(
            asset_key=RECORDING, check_name=CHECK, passed=not disagreeing, metadata={"disagreeing": disagreeing}
        )


def _advance(context: dg.OpExecutionContext, ursa: UrsaResource, step: StepName, batch: BatchState) -> BatchState:
    work = ursa.batch(context, overwrite=batch.overwrite, allow_partial=batch.allow_partial)
    before = {item.rec_id: item.status for item in batch.items if item.state == "going"}
    items = work.step(step, batch.items)
    for item in items:
        if item.rec_id in before and item.state in {"failed", "waiting"}:
            context.log.warning("%s %s", item.status, item.reason)
    return replace(batch, items=items)


def _materialization(item: BatchItem, bucket: str) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        asset_key=RECORDING,
        partition=item.rec_id,
        tags={"dagster/data_version": item.recording_hash},
        metadata=_metadata(item, bucket),
    )


def _metadata(item: BatchItem, bucket: str) -> dict[str, dg.MetadataValue]:
    value = dg.MetadataValue
    speed = item.bytes_uploaded / 1e6 / item.seconds if item.bytes_uploaded and item.seconds else 0.0
    return {
        "path": value.text(item.path),
        "outcome": value.text(item.outcome),
        "files": value.int(item.files),
        "bytes": value.int(item.bytes),
        "files_uploaded": value.int(item.files_uploaded),
        "files_skipped": value.int(item.files_skipped),
        "bytes_uploaded": value.int(item.bytes_uploaded),
        "seconds": value.float(round(item.seconds, 3)),
        "MB/s": value.float(round(speed, 3)),
        "verification": value.text(item.verification),
        "nodes": value.text(", ".join(item.nodes)),
        "nodes_missing": value.text(", ".join(item.nodes_missing)),
        "recording_hash": value.text(item.recording_hash),
        "fingerprint": value.text(item.fingerprint),
        "commit_marker": value.text(uri(bucket, marker_key(item.rec_id))),
        "dagster/uri": value.text(uri(bucket, recording_prefix(item.rec_id))),
    }


def _table(items: Sequence[BatchItem]) -> dg.TableMetadataValue:
    columns = {
        "recording": "string",
        "status": "string",
        "path": "string",
        "files": "int",
        "bytes": "int",
        "sent": "int",
        "seconds": "float",
        "outcome": "string",
        "reason": "string",
    }
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    "recording": item.rec_id,
                    "status": item.status,
                    "path": item.path,
                    "files": item.files,
                    "bytes": item.bytes,
                    "sent": item.files_uploaded,
                    "seconds": round(item.seconds, 2),
                    "outcome": item.outcome,
                    "reason": item.reason,
                }
            )
            for item in items
        ],
        schema=dg.TableSchema([dg.TableColumn(name, kind) for name, kind in columns.items()]),
    )
