"""Jobs beside the ingest: registering what only the bucket has, and looking at what somebody names.

All of them read and write through the same functions as the asset `recording`, and tell what they found on its
partitions.
"""

from collections.abc import Sequence

import dagster as dg
from pydantic import Field

from ursa_pipelines.errors import ManifestNotFound
from ursa_pipelines.ingest.batch import Batch, fold_if_many
from ursa_pipelines.ingest.results_shown import some_shown
from ursa_pipelines.ingest.verify import verify_many
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.orchestration.checks import OBJECTS, ROWS, Looked, problems_of
from ursa_pipelines.orchestration.ops import look_at, put_verdicts, told
from ursa_pipelines.orchestration.partitions import RECORDING, add_partitions, recordings
from ursa_pipelines.orchestration.resources import UrsaResource, require_profile
from ursa_pipelines.orchestration.telling import Progress, materialization

REGISTER_ONLY_JOB, VERIFY_JOB = "register_only", "verify"


class RecordingsConfig(dg.Config):
    """Which recordings a run takes."""

    recordings: list[str] = Field(
        default=[],
        description="Ids of recordings to take in this one run, if no partition is chosen. A backfill over partitions "
        "makes a run for each of them.",
    )


class RegisterConfig(RecordingsConfig):
    """Settings of `register_only`."""

    overwrite: bool = Field(default=False, description="Replace the catalog's rows by what the bucket's manifests say.")


class VerifyConfig(RecordingsConfig):
    """Settings of `verify`."""

    deep: bool = Field(
        default=False,
        description="Read every byte and compare its SHA-256, not just sizes. What is found sound is noted in the row.",
    )


def jobs() -> list[dg.JobDefinition]:
    """The jobs beside the ingest, for the same partitions."""
    return [_register_only, _verify]


@dg.op(out=dg.Out(dg.Nothing), pool="catalog", description="Registers recordings by what the bucket has of them.")
def register_from_bucket(context: dg.OpExecutionContext, config: RegisterConfig, ursa: UrsaResource) -> None:
    data = _open(context, ursa, may_write=True)
    bucket = data.profile.buckets.raw
    batch = Batch(
        data.ingest_context(raw_role="raw_ro"),
        lambda rec_id: (),
        overwrite=config.overwrite,
        allow_reconstruction=_never_reconstruct,
        on_progress=Progress(context).tell,
        on_registered=lambda item: context.log_event(materialization(item, bucket)),
    )
    items = batch.run_all(_chosen(context, config))
    fold_if_many(batch.context)
    registered = [item.rec_id for item in items if item.status == "OK"]
    # Of those that were named by their ids; without a partition nobody would see them.
    add_partitions(context.instance, registered)
    look_at(context, ursa, registered)
    for event in told(context, items):
        context.log_event(event)


@dg.op(out=dg.Out(dg.Nothing), description="Compares rows, manifests and objects of recordings.")
def compare(context: dg.OpExecutionContext, config: VerifyConfig, ursa: UrsaResource) -> None:
    data = _open(context, ursa, may_write=config.deep)
    ingest = data.ingest_context(raw_role="raw_ro") if config.deep else data.reading_context
    looked = verify_many(ingest, _chosen(context, config), deep=config.deep, record=config.deep)
    put_verdicts(context, looked)
    _tell_found(context, looked)


@dg.job(
    name=REGISTER_ONLY_JOB,
    partitions_def=recordings,
    description="Registers recordings whose bytes and manifest a rig has put into the bucket (Path B). Only the bucket "
    "is looked at: nothing is uploaded, and no manifest is made.",
)
def _register_only():
    register_from_bucket()


@dg.job(
    name=VERIFY_JOB,
    partitions_def=recordings,
    description="Compares the catalog's rows, the manifests and the objects of recordings; changes none of them. "
    "Fails, naming the recordings that have problems.",
)
def _verify():
    compare()


def _never_reconstruct(rec_id: str) -> None:
    raise ManifestNotFound("it has no manifest that lists files", recording=rec_id)


def _open(context: dg.OpExecutionContext, ursa: UrsaResource, *, may_write: bool) -> DataInterface:
    data = ursa.data(run_id=context.run_id)
    require_profile(context.instance, data.profile)
    if may_write:
        data.enable_writes(roles=("assets_rw",))
    return data


def _chosen(context: dg.OpExecutionContext, config: RecordingsConfig) -> Sequence[str]:
    if config.recordings:
        return list(dict.fromkeys(config.recordings))
    if context.has_partition_key:
        return [context.partition_key]
    raise dg.Failure("No recording was chosen. Choose a partition, or name ids in the setting `recordings`.")


def _tell_found(context: dg.OpExecutionContext, looked: Looked) -> None:
    problems = {rec_id: problems_of(ROWS, one) + problems_of(OBJECTS, one) for rec_id, one in looked.items()}
    wrong = {rec_id: list(dict.fromkeys(some)) for rec_id, some in problems.items() if some}
    shown = dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    "recording": rec_id,
                    "level": getattr(one, "level", ""),
                    "files": getattr(one, "files", 0),
                    "bytes": getattr(one, "bytes", 0),
                    "problems": "; ".join(wrong.get(rec_id, [])),
                }
            )
            for rec_id, one in looked.items()
        ],
        schema=dg.TableSchema(
            [
                dg.TableColumn("recording", "string"),
                dg.TableColumn("level", "string"),
                dg.TableColumn("files", "int"),
                dg.TableColumn("bytes", "int"),
                dg.TableColumn("problems", "string"),
            ]
        ),
    )
    counts = {"recordings": len(looked), "with_problems": len(wrong)}
    context.log_event(
        dg.AssetObservation(asset_key=RECORDING, description="Looked at again", metadata={**counts, "found": shown})
    )
    if wrong:
        raise dg.Failure(
            "\n".join(f"{rec_id}: {some_shown(some).removeprefix(f'{rec_id}: ')}" for rec_id, some in wrong.items()),
            metadata={**counts, "found": shown},
            allow_retries=False,
        )
