"""The GraphQL door of a running Dagster webserver, opened only if it serves this profile's instance."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import urllib3
import yaml

from ursa_pipelines.errors import ProfileInvalid, StoreUnavailable, UrsaError
from ursa_pipelines.orchestration.partitions import RECORDING
from ursa_pipelines.profiles import Profile, load_profile

_SECONDS = urllib3.Timeout(connect=5, read=60)
_ELSEWHERE = "Name the right one with --url, or say --in-process to do without."

_ASSET = """query ($asset: AssetKeyInput!) {
  assetNodeOrError(assetKey: $asset) { ... on AssetNode { repository { name location { name } } } } }"""
_RESOURCE = """query ($resource: ResourceSelector!) {
  topLevelResourceDetailsOrError(resourceSelector: $resource) {
    ... on ResourceDetails { configuredValues { key value } } } }"""
_INSTANCE = "query { instance { info daemonHealth { allDaemonStatuses { daemonType healthy } } } }"
_RUN = "query ($run: ID!) { runOrError(runId: $run) { __typename } }"
_SENSOR = "query ($sensor: SensorSelector!) { sensorOrError(sensorSelector: $sensor) { ... on Sensor { sensorState { status } } } }"  # noqa: E501
_LAUNCH = """mutation ($backfill: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $backfill) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on Error { message } } }"""
_BACKFILL = """query ($backfill: String!) { partitionBackfillOrError(backfillId: $backfill) {
  __typename ... on PartitionBackfill { status error { message } } ... on Error { message } } }"""


@dataclass(frozen=True)
class Webserver:
    """A webserver at `url` that serves the profile's instance; its code is in `location` / `repository`."""

    url: str
    repository: str
    location: str

    def ask(self, query: str, **variables: Any) -> Any:
        """The data of the answer. Raises `StoreUnavailable` if none comes, `UrsaError` if the question is refused."""
        return _ask(self.url, query, variables)

    def launch_backfill(self, rec_ids: Collection[str], tags: Mapping[str, str], title: str) -> str:
        """Has the daemon ingest these partitions, which exist; the id of the backfill. Raises `UrsaError`."""
        asked = {
            "assetSelection": [{"path": list(RECORDING.path)}],
            "partitionNames": list(rec_ids),
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
            "title": title,
        }
        answer = self.ask(_LAUNCH, backfill=asked)["launchPartitionBackfill"]
        if answer["__typename"] != "LaunchBackfillSuccess":
            problem = f"Dagster refused the backfill: {answer.get('message') or answer['__typename']}"
            raise UrsaError(problem, place=self.url, remedy="Look at the code location in the Dagster UI.")
        return str(answer["backfillId"])

    def backfill(self, backfill_id: str) -> tuple[str, str]:
        """The status of a backfill as Dagster calls it, and what went wrong with it as a whole."""
        answer = self.ask(_BACKFILL, backfill=backfill_id)["partitionBackfillOrError"]
        if answer["__typename"] != "PartitionBackfill":
            return "FAILED", str(answer.get("message") or answer["__typename"])
        return str(answer["status"]), str((answer["error"] or {}).get("message", ""))

    def is_healthy(self, daemon: str) -> bool:
        """Whether a daemon of this type, such as BACKFILL or SENSOR, has told lately that it runs."""
        daemons = self.ask(_INSTANCE)["instance"]["daemonHealth"]["allDaemonStatuses"]
        return any(one["daemonType"] == daemon and one["healthy"] for one in daemons)

    def is_on(self, sensor: str) -> bool:
        """Whether a sensor is switched on."""
        where = {"repositoryName": self.repository, "repositoryLocationName": self.location, "sensorName": sensor}
        state = self.ask(_SENSOR, sensor=where)["sensorOrError"].get("sensorState") or {}
        return state.get("status") == "RUNNING"

    def page_of(self, backfill_id: str) -> str:
        return f"{self.url}/runs/b/{backfill_id}"


def find_webserver(url: str, instance: dg.DagsterInstance, profile: Profile) -> Webserver | None:
    """The webserver at `url`, None if nothing listens there.

    Raises `ProfileInvalid` if what listens is none, or serves another profile or another instance: a backfill launched
    there would ingest from other sources into other buckets.
    """
    url = url.rstrip("/")
    try:
        asset = _ask(url, _ASSET, {"asset": {"path": list(RECORDING.path)}})["assetNodeOrError"]
        if asset == {}:
            raise ProfileInvalid("the Dagster there has no asset `recording` loaded", place=url, remedy=_ELSEWHERE)
        found = Webserver(url, asset["repository"]["name"], asset["repository"]["location"]["name"])
        settings = _settings(found)
        is_same_instance = _is_same_instance(found, instance)
    except _NobodyListens:
        return None
    except ProfileInvalid:
        raise
    except UrsaError as error:
        told = f"what listens there is not our Dagster: {error.problem}"
        raise ProfileInvalid(told, place=url, remedy=_ELSEWHERE) from None
    except (LookupError, TypeError, AttributeError, ValueError, yaml.YAMLError):
        told = "what listens there is not our Dagster: it answers otherwise than Dagster does"
        raise ProfileInvalid(told, place=url, remedy=_ELSEWHERE) from None
    served = _served_profile(settings)
    if served != profile:
        name = f"the profile {served.name!r}" if served else "no profile of ours"
        other = " with other settings" if served and served.name == profile.name else f", not {profile.name!r}"
        raise ProfileInvalid(f"the Dagster there serves {name}{other}", place=url, remedy=_ELSEWHERE)
    if not is_same_instance:
        raise ProfileInvalid(
            f"the Dagster there keeps its runs elsewhere than {instance.root_directory}", place=url, remedy=_ELSEWHERE
        )
    return found


class _NobodyListens(StoreUnavailable):
    """The connection was refused."""

    remedy = "Start it with `ursa dev`; what it had under way goes on then."


def _ask(url: str, query: str, variables: Mapping[str, Any]) -> Any:
    body = json.dumps({"query": query, "variables": variables}).encode()
    headers = {"Content-Type": "application/json"}
    try:
        with urllib3.PoolManager(retries=False, timeout=_SECONDS) as pool:
            answer = pool.request("POST", f"{url}/graphql", body=body, headers=headers, redirect=False)
        document = json.loads(answer.data)
    except urllib3.exceptions.LocationValueError:
        raise ProfileInvalid("this is no URL", place=url, remedy="Write it as http://127.0.0.1:3000.") from None
    except urllib3.exceptions.NewConnectionError:
        raise _NobodyListens("nobody listens", place=url) from None
    except (urllib3.exceptions.HTTPError, OSError):
        raise StoreUnavailable("it does not answer", place=url, remedy="Look whether it is still running.") from None
    except ValueError:
        raise UrsaError("it does not speak GraphQL", place=url, remedy=_ELSEWHERE) from None
    if not isinstance(document, dict) or not isinstance(document.get("data"), dict) or document.get("errors"):
        errors = document.get("errors") if isinstance(document, dict) else None
        told = [str(one.get("message")) for one in errors if isinstance(one, dict)] if isinstance(errors, list) else []
        raise UrsaError(": ".join(["it refused the question", *told]), place=url, remedy=_ELSEWHERE)
    return document["data"]


def _settings(webserver: Webserver) -> dict[str, Any]:
    """How the resource that opens the profile is configured there; empty if there is none."""
    where = {"repositoryName": webserver.repository, "repositoryLocationName": webserver.location}
    details = webserver.ask(_RESOURCE, resource={**where, "resourceName": "ursa"})["topLevelResourceDetailsOrError"]
    return {one["key"]: json.loads(one["value"]) for one in details.get("configuredValues", [])}


def _served_profile(settings: Mapping[str, Any]) -> Profile | None:
    if not settings:
        return None
    config = settings.get("config_path")
    return load_profile(settings.get("profile"), Path(config) if config else None)


def _is_same_instance(webserver: Webserver, instance: dg.DagsterInstance) -> bool:
    told = yaml.safe_load(webserver.ask(_INSTANCE)["instance"]["info"] or "{}")
    base = told.get("local_artifact_storage", {}).get("config", {}).get("base_dir")
    if base and Path(base).resolve() == Path(instance.root_directory).resolve():
        return True
    if told.get("run_storage") == "SqliteRunStorage":
        return False
    # One database may serve webservers on several hosts, each with a directory of its own.
    newest = instance.get_run_records(limit=1)
    if not newest:
        return False
    answer = webserver.ask(_RUN, run=newest[0].dagster_run.run_id)
    return answer["runOrError"]["__typename"] == "Run"
