"""What is looked at again of every registered recording, and what an operator reads where something is wrong.

The four checks share one look at the rows, the manifests and the objects (`ursa_pipelines.ingest.verify`).
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import dagster as dg

from ursa_pipelines.errors import UrsaError
from ursa_pipelines.ingest.results_shown import some_shown
from ursa_pipelines.ingest.verify import Verification
from ursa_pipelines.orchestration.partitions import RECORDING, recordings

ROWS, OBJECTS = "rows_match_manifest", "objects_present"
PARTICIPANT, MODALITIES = "participant_known", "modalities_complete"

Looked = Mapping[str, Verification | UrsaError]
"""By recording: what was found, or why it could not be looked at."""


@dataclass(frozen=True)
class _Check:
    name: str
    severity: dg.AssetCheckSeverity
    description: str
    what_to_do: str


_ERROR, _WARNING = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
_CHECKS = (
    _Check(
        ROWS,
        _ERROR,
        "The catalog's rows say of each modality the files and bytes that the manifests list and the bucket has.",
        "Materialize this partition again with overwrite on: the rows are then written anew from the manifests. If it "
        "stays, run `ursa verify` for this recording with --deep and compare.",
    ),
    _Check(
        OBJECTS,
        _ERROR,
        "Every file that the manifests list is in the bucket in its size, and no other.",
        "Materialize this partition again while its source is mounted: what is missing is sent again, and nothing "
        "stored is replaced. A file of another size was not written by this pipeline: find out who wrote it.",
    ),
    _Check(
        PARTICIPANT,
        _WARNING,
        "The row names at least one participant.",
        "If you know who it was, run `ursa participants backfill`, or register it again with a participant.",
    ),
    _Check(
        MODALITIES,
        _WARNING,
        "The files of every node that took part are there.",
        "Bring the directory of each missing node to a source; it is taken up by itself. If it is lost for good, say "
        "so with `ursa waive`.",
    ),
)
NAMES = tuple(one.name for one in _CHECKS)


def check_specs() -> list[dg.AssetCheckSpec]:
    """The checks of `recording`, one verdict per partition."""
    with warnings.catch_warnings():
        # Checks on partitions are a preview in Dagster 1.13; an operator can do nothing about that.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(one.name, asset=RECORDING, partitions_def=recordings, description=one.description)
            for one in _CHECKS
        ]


def evaluations(looked: Looked, waived: Mapping[str, str]) -> Iterator[dg.AssetCheckEvaluation]:
    """The verdict of each check on each recording's partition. `waived` tells why a recording may stay as it is."""
    for rec_id, found in looked.items():
        for check in _CHECKS:
            problems = problems_of(check.name, found)
            note = waived.get(rec_id, "") if problems and check is _CHECKS[-1] else ""
            metadata: dict[str, object] = {"problems": problems} if problems else {}
            if note:
                metadata["waived"] = note
            elif problems:
                metadata["what_to_do"] = check.what_to_do
            yield dg.AssetCheckEvaluation(
                asset_key=RECORDING,
                check_name=check.name,
                partition=rec_id,
                passed=not problems or bool(note),
                severity=check.severity,
                description=some_shown(problems) or None,
                metadata=metadata,  # type: ignore[arg-type] # its type names every kind of value one by one
            )


def not_looked_at(rec_ids: Iterable[str]) -> Iterator[dg.AssetCheckEvaluation]:
    """The verdicts on recordings whose ingest failed: a warning, since nobody knows."""
    for rec_id in rec_ids:
        for check in _CHECKS:
            yield dg.AssetCheckEvaluation(
                asset_key=RECORDING,
                check_name=check.name,
                partition=rec_id,
                passed=False,
                severity=_WARNING,
                description="Not looked at, because its ingest failed.",
            )


def verdicts_of_batch(evaluated: Iterable[dg.AssetCheckEvaluation]) -> Iterator[dg.AssetCheckResult]:
    """One verdict of each check on a run's recordings together, without which Dagster would say "Execution failed"."""
    failed: dict[str, list[str]] = {name: [] for name in NAMES}
    for one in evaluated:
        if not one.passed:
            failed[one.check_name].append(str(one.partition))
    for check in _CHECKS:
        rec_ids = failed[check.name]
        yield dg.AssetCheckResult(
            asset_key=RECORDING,
            check_name=check.name,
            passed=not rec_ids,
            severity=check.severity,
            metadata={"failed": len(rec_ids), "recordings": rec_ids, "what_to_do": check.what_to_do} if rec_ids else {},
        )


def problems_of(check: str, found: Verification | UrsaError) -> list[str]:
    """What a check finds wrong."""
    if isinstance(found, UrsaError):
        # What nobody could look at is an error once, and not a warning besides.
        return [str(found)] if check in {ROWS, OBJECTS} else []
    if check == ROWS:
        return list(found.row_problems)
    if check == OBJECTS:
        return list(found.object_problems)
    if check == PARTICIPANT:
        return [] if found.participants else ["nobody is named"]
    if found.nodes_missing:
        nodes = len(found.nodes) + len(found.nodes_missing)
        return [f"{len(found.nodes)} of {nodes} nodes: {', '.join(found.nodes_missing)} missing"]
    return []
