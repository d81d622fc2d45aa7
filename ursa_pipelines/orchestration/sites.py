"""Which site a run belongs to, so that only a host that mounts a source reads it.

A profile says at which site a source is mounted. A run of one recording goes to the site where that recording arrived
last; its tag `ursa/site` says which, it waits in that site's queue, and it sees the sources of that site only. Without
sites in the profile nothing of this happens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from ursa_pipelines.errors import ProfileInvalid, UrsaError
from ursa_pipelines.ingest.sources import Source
from ursa_pipelines.orchestration.arrivals import newest_arrivals
from ursa_pipelines.orchestration.partitions import RECORDING, arrival_asset, partitions_in_order
from ursa_pipelines.profiles import Profile, load_profile

SITE = "ursa/site"
"""The tag of a run that says where it is to run."""
CENTRAL = "central"
"""Its value for what belongs to no site: the catalog, the reconciliation, what only the bucket has."""
CENTRAL_QUEUE = "dagster"

ALONE = "ursa/alone"
"""The tag of runs that would do one another's work: of one value one runs at a time (`dagster.yaml`)."""

_QUEUE = "dagster-celery/queue"
# What the steps of a killed run have left lies on the host that ran them. What failed for a reason of its own is
# retried by the reconciliation.
_RETRIES = {"dagster/retry_strategy": "ALL_STEPS", "dagster/retry_on_asset_or_op_failure": "false"}
_PARTITION = "dagster/partition"
_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
_WHOLE_ASSETS = "__ASSET_JOB"
_INGEST_JOB = "ingest"


def sites_of(profile: Profile) -> list[str]:
    """The sites that the profile names, sorted."""
    return sorted({source.site for source in profile.sources if source.site})


def sources_at(sources: Sequence[Source], tags: Mapping[str, str]) -> list[Source]:
    """The sources that a run with these tags may read: all of them, unless it belongs to a site or to none of them."""
    if SITE not in tags:
        return list(sources)
    site = "" if tags[SITE] == CENTRAL else tags[SITE]
    return [source for source in sources if source.site == site]


def require_site(profile: Profile, site: str) -> None:
    """Raises `ProfileInvalid` if no source of the profile is at this site."""
    if site not in sites_of(profile):
        named = ", ".join(sites_of(profile)) or "none"
        raise ProfileInvalid(
            f"no source is at the site {site!r}; the profile names {named}",
            place=profile.name,
            remedy="Write `site: NAME` into the entry of the source that is mounted there.",
        )


class SiteRunCoordinator(dg.QueuedRunCoordinator):
    """Dagster's queue of runs, which tags each run with its site before it is queued.

    `profile` and `config_path` name the profile, as they do for the code location.
    """

    def __init__(self, profile: str | None = None, config_path: str | None = None, **settings: Any):
        self._named = profile, config_path
        super().__init__(**settings)

    @classmethod
    def config_type(cls) -> Any:
        """The settings of Dagster's own queue, and the two that name the profile."""
        ours = {name: dg.Field(dg.StringSource, is_required=False) for name in ("profile", "config_path")}
        settings: Any = super().config_type()
        return {**settings, **ours}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> SiteRunCoordinator:
        """What Dagster calls with the settings in dagster.yaml."""
        return cls(inst_data=inst_data, **config_value)

    def submit_run(self, context: dg.SubmitRunContext) -> dg.DagsterRun:
        """Queues the run with the tags of its site. Raises `UrsaError` if its recordings are at several sites."""
        profile, config_path = self._named
        loaded = load_profile(profile, Path(config_path) if config_path else None)
        tags = site_tags(self._instance, loaded, context.dagster_run)
        if tags:
            self._instance.add_run_tags(context.dagster_run.run_id, tags)
        return super().submit_run(context)


def site_tags(instance: dg.DagsterInstance, profile: Profile, run: dg.DagsterRun) -> dict[str, str]:
    """The tags that send a run to its site; none if the profile has no sites.

    A tag `ursa/site` that the run has already decides, as that of a schedule does. Raises `ProfileInvalid` if it names
    no site, in whose queue the run would wait for nobody, and `UrsaError` if the recordings of the run are at several.
    """
    if not sites_of(profile):
        return {}
    site = run.tags.get(SITE) or _site_of_recordings(instance, profile, run)
    if site != CENTRAL:
        require_site(profile, site)
    return {SITE: site, _QUEUE: CENTRAL_QUEUE if site == CENTRAL else site, **_RETRIES}


def _site_of_recordings(instance: dg.DagsterInstance, profile: Profile, run: dg.DagsterRun) -> str:
    rec_ids = _recordings_of(instance, run)
    if not rec_ids:
        return CENTRAL
    newest: dict[str, tuple[float, str]] = {}
    for source in profile.sources:
        for rec_id, arrival in newest_arrivals(instance, arrival_asset(source.name), rec_ids).items():
            newest[rec_id] = max(newest.get(rec_id, (0.0, "")), (arrival.at, source.site or CENTRAL))
    sites = sorted({newest[rec_id][1] if rec_id in newest else CENTRAL for rec_id in rec_ids})
    if len(sites) > 1:
        raise UrsaError(
            f"the recordings of this run are at several sites: {', '.join(sites)}",
            remedy="Launch them as a backfill, which makes one run for each recording.",
        )
    return sites[0]


def _recordings_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Sequence[str]:
    """The recordings that the run ingests; none of a run that does something else."""
    is_ingest = run.job_name == _INGEST_JOB or run.job_name.startswith(_WHOLE_ASSETS)
    if not is_ingest or (run.asset_selection is not None and RECORDING not in run.asset_selection):
        return []
    if key := run.tags.get(_PARTITION):
        return [key]
    first, last = run.tags.get(_RANGE_START), run.tags.get(_RANGE_END)
    if first is None or last is None:
        return []
    if first == last:
        return [first]
    order = partitions_in_order(instance)
    if first not in order or last not in order:
        return sorted({first, last})
    return order[order.index(first) : order.index(last) + 1]
