"""`ursa doctor`: this machine, the credentials, the store, the catalog and the sources, each told with its remedy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ursa_pipelines.maintenance.checkup.catalog import catalog_looks
from ursa_pipelines.maintenance.checkup.check import Check, run_looks
from ursa_pipelines.maintenance.checkup.credentials import credential_looks
from ursa_pipelines.maintenance.checkup.doors import Doors
from ursa_pipelines.maintenance.checkup.host import host_looks, settings_looks
from ursa_pipelines.maintenance.checkup.sources import source_looks
from ursa_pipelines.maintenance.checkup.store import store_looks
from ursa_pipelines.profiles import Profile


def examine(profile: Profile, state: Path) -> Iterator[Check]:
    """Every check of a profile on this host, as they end; `state` is the host's directory for it.

    Only reads: neither a bucket nor a source nor a file is changed. The embedded store is started if it does not run.
    """
    doors = Doors(profile)
    try:
        yield from run_looks(
            [
                *host_looks(profile, state),
                *credential_looks(doors),
                *store_looks(doors),
                *catalog_looks(doors),
                *source_looks(profile),
                *settings_looks(doors, state),
            ]
        )
    finally:
        doors.close()
