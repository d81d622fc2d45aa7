"""The profile as a Dagster resource. It holds names only; credentials are fetched in the process that uses them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
from pydantic import PrivateAttr

from ursa_pipelines.errors import ProfileInvalid
from ursa_pipelines.ingest.batch import Batch, BatchItem
from ursa_pipelines.ingest.sources import Directories
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.orchestration.arrivals import read_arrivals
from ursa_pipelines.orchestration.sites import sources_at
from ursa_pipelines.profiles import Profile

TRIGGER, BY_ARRIVAL = "ursa/trigger", "arrival"

_STAMP = "ursa_profile"


class UrsaResource(dg.ConfigurableResource):
    """Opens the profile of this code location. One Dagster instance serves one profile."""

    profile: str | None = None
    config_path: str | None = None

    _interfaces: dict[str | None, DataInterface] = PrivateAttr(default_factory=dict)
    _batches: dict[str, Batch] = PrivateAttr(default_factory=dict)

    def data(self, *, run_id: str | None = None) -> DataInterface:
        """The Python interface to the profile; one per run and process, so that credentials are fetched once."""
        if run_id not in self._interfaces:
            self._interfaces[run_id] = DataInterface(self.profile, config_path=self.config_path, run_id=run_id)
        return self._interfaces[run_id]

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Closes what the run, the step or the tick has opened."""
        for data in self._interfaces.values():
            data.close()

    def batch(
        self, context: dg.OpExecutionContext, rec_ids: Sequence[str], *, overwrite: bool, allow_partial: bool
    ) -> Batch:
        """The batch of this run over these recordings, which keeps its work in this process from op to op."""
        if context.run_id not in self._batches:
            data = self.data(run_id=context.run_id)
            require_profile(context.instance, data.profile)
            data.enable_writes(roles=("assets_rw", "raw_rw"))
            ingest = data.ingest_context()
            arrivals = read_arrivals(context.instance, data.sources, data.profile.settings, rec_ids)
            batch = Batch(
                ingest,
                Directories(sources_at(data.sources, context.run.tags), ingest.reading).of,
                overwrite=overwrite,
                allow_partial=allow_partial,
                allow_reconstruction=arrivals.require_never_on_a_source,
            )
            if is_by_arrival(context):
                batch.allow = arrivals.require_settled
            self._batches[context.run_id] = batch
        return self._batches[context.run_id]

    def plan(self, context: dg.OpExecutionContext, *, overwrite: bool, allow_partial: bool) -> list[BatchItem]:
        """What this run would do with its partitions; needs no credential that may write."""
        data = self.data(run_id=context.run_id)
        require_profile(context.instance, data.profile)
        ingest = data.reading_context
        here = sources_at(data.sources, context.run.tags)
        batch = Batch(ingest, Directories(here, ingest.reading).of, overwrite, allow_partial)
        return batch.plan(context.partition_keys)


def is_by_arrival(context: dg.OpExecutionContext) -> bool:
    """Whether the automation has launched this run, and not a person."""
    return context.run.tags.get(TRIGGER) == BY_ARRIVAL


def require_profile(instance: dg.DagsterInstance, profile: Profile | str) -> None:
    """Makes the instance this profile's own, before something is written there: stamps it with name and buckets.

    Raises `ProfileInvalid` if it serves another profile: partitions and asset keys are global to an instance, and two
    profiles in one would mix their recordings. Of a profile's name alone only the name is compared and stamped.
    """
    if not instance.is_ephemeral:
        require_profile_of_home(Path(instance.root_directory), profile)


def require_profile_of_home(home: Path, profile: Profile | str) -> None:
    """The same for a DAGSTER_HOME that no instance has opened yet."""
    compare_profile_of_home(home, profile)
    ours = _told(profile)
    if len(_stamped(home)) < len(ours):
        draft = home / f"{_STAMP}.{os.getpid()}"
        draft.write_text("\n".join([*ours, ""]))
        draft.replace(home / _STAMP)


def compare_profile_of_home(home: Path, profile: Profile | str) -> None:
    """Raises `ProfileInvalid` if that DAGSTER_HOME serves another profile; writes nothing."""
    found, ours = _stamped(home), _told(profile)
    # An older version stamped the name alone.
    if all(one == other for one, other in zip(found, ours, strict=False)):
        return
    served, asked = repr(found[0]), repr(ours[0])
    if served == asked:
        served, asked = f"{served} with the buckets {', '.join(found[1:])}", f"that with {', '.join(ours[1:])}"
    raise ProfileInvalid(
        f"this Dagster instance serves the profile {served}, not {asked}",
        place=str(home / _STAMP),
        remedy="Give each profile a DAGSTER_HOME of its own.",
    )


def _stamped(home: Path) -> list[str]:
    stamp = home / _STAMP
    return stamp.read_text().splitlines() if stamp.exists() else []


def _told(profile: Profile | str) -> list[str]:
    return [profile] if isinstance(profile, str) else [profile.name, profile.buckets.raw, profile.buckets.assets]
