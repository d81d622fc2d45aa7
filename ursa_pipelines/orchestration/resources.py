"""The profile as a Dagster resource. It holds names only; credentials are fetched in the process that uses them."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
from pydantic import PrivateAttr

from ursa_pipelines.errors import ProfileInvalid
from ursa_pipelines.ingest.batch import Batch, BatchItem
from ursa_pipelines.ingest.sources import directories_of
from ursa_pipelines.interface import DataInterface

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

    def batch(self, context: dg.OpExecutionContext, *, overwrite: bool, allow_partial: bool) -> Batch:
        """The batch of this run, which keeps its work in this process from op to op."""
        if context.run_id not in self._batches:
            data = self.data(run_id=context.run_id)
            require_profile(context.instance, data.profile.name)
            data.enable_writes(roles=("assets_rw", "raw_rw"))
            self._batches[context.run_id] = Batch(
                data.ingest_context(),
                lambda rec_id: directories_of(rec_id, data.sources),
                overwrite=overwrite,
                allow_partial=allow_partial,
            )
        return self._batches[context.run_id]

    def plan(self, context: dg.OpExecutionContext, *, allow_partial: bool) -> list[BatchItem]:
        """What this run would do with its partitions; needs no credential that may write."""
        data = self.data(run_id=context.run_id)
        require_profile(context.instance, data.profile.name)
        batch = Batch(
            data.reading_context, lambda rec_id: directories_of(rec_id, data.sources), allow_partial=allow_partial
        )
        return batch.plan(context.partition_keys)


def require_profile(instance: dg.DagsterInstance, name: str) -> None:
    """Stamps the instance with its profile, or raises `ProfileInvalid` if it serves another one.

    Partitions and asset keys are global to an instance: two profiles in one would mix their recordings.
    """
    if not instance.is_ephemeral:
        require_profile_of_home(Path(instance.root_directory), name)


def require_profile_of_home(home: Path, name: str) -> None:
    """The same for a DAGSTER_HOME that no instance has opened yet."""
    stamp = home / _STAMP
    if not stamp.exists():
        stamp.write_text(f"{name}\n")
    if (found := stamp.read_text().strip()) != name:
        raise ProfileInvalid(
            f"this Dagster instance serves the profile {found!r}, not {name!r}",
            place=str(stamp),
            remedy="Give each profile a DAGSTER_HOME of its own.",
        )
