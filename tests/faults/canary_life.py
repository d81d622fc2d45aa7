"""The life of a profile through every door, in a process of its own whose logging tells all, for `test_canaries`.

Run as `python -m tests.faults.canary_life DIRECTORY`. `DIRECTORY/life.json` names profiles, sources and buckets, and
holds no canary; whatever can be kept of this life goes to `DIRECTORY/out`.
"""

from __future__ import annotations

import contextlib
import copy
import faulthandler
import http.client
import json
import logging
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster._core.remote_representation.external_data import RepositorySnap

from tests.faults.proxy import Fault, Hold, LoseAnswer, Proxy, Refuse
from tests.orchestration.launch import make_job
from tests.webhook import Webhook
from ursa_pipelines import DataInterface
from ursa_pipelines.cli.main import main as ursa
from ursa_pipelines.errors import UrsaError
from ursa_pipelines.ingest.register import IngestResult
from ursa_pipelines.logs import JsonFormatter
from ursa_pipelines.maintenance.participants_edits import apply_edit, plan_rename
from ursa_pipelines.notifications import post
from ursa_pipelines.orchestration.definitions import build_definitions
from ursa_pipelines.orchestration.resources import UrsaResource
from ursa_pipelines.profiles.profile import ROLES
from ursa_pipelines.rooms import WRITE_ROLES

_SERVED_SECONDS = 240
_ENTRIES = """metadataEntries { label description ... on TextMetadataEntry { text }
  ... on JsonMetadataEntry { jsonString } ... on MarkdownMetadataEntry { mdStr } ... on PathMetadataEntry { path }
  ... on UrlMetadataEntry { url } ... on TableMetadataEntry { table { records } } }"""
ASKED = (
    """{ repositoriesOrError { ... on RepositoryConnection { nodes { name displayMetadata { key value }
  allTopLevelResourceDetails { name description configuredValues { key value }
    configFields { name description defaultValueAsJson } }
  sensors { name description sensorState { status ticks(limit: 20) {
    status cursor skipReason runIds error { message stack } } } }
  schedules { name description scheduleState { status } }
  jobs { name description presets { runConfigYaml } } } } } }""",
    """{ runsOrError { ... on Runs { results { runId jobName status runConfigYaml tags { key value }
  eventConnection(limit: 1000) { events { __typename ... on MessageEvent { message stepKey }
    ... on DisplayableEvent { label description ENTRIES }
    ... on ExecutionStepFailureEvent { error { message stack } } } } } } } }""".replace("ENTRIES", _ENTRIES),
    "{ instance { info daemonHealth { allDaemonStatuses { daemonType lastHeartbeatErrors { message stack } } } } }",
)
"""The snapshot with its resources and the sensors' ticks; the runs with their events; the instance."""


class Life:
    """Writes down what happens. `failures` and `commands` count; `unexpected` has the commands that ended otherwise."""

    def __init__(self, directory: Path) -> None:
        self.told: dict[str, Any] = json.loads((directory / "life.json").read_text())
        self.out = directory / "out"
        self.config = directory / "profile.yaml"
        self.proxy = Proxy(self.told["store"])
        self.failures, self.commands = 0, 0
        self.unexpected: list[str] = []
        self._shown = (self.out / "shown.txt").open("a")
        self._locals = (self.out / "locals.txt").open("a")

    def interface(self, config: Path | None = None, *, writes: bool = True) -> DataInterface:
        data = DataInterface(config_path=config or self.config)
        if writes:
            data.enable_writes(roles=WRITE_ROLES)
        return data

    def show(self, *held: object) -> None:
        """Writes what is seen of an object: as text, in a notebook, its fields, as pickle, copy and JSON."""
        for one in held:
            for way in (repr, str, lambda one: one._repr_html_(), lambda one: one.model_dump_json()):
                self._keep(way, one)
            for number, way in enumerate((pickle.dumps, copy.deepcopy, lambda one: json.dumps(one, default=repr))):
                self._keep(way, one, f"{type(one).__name__}-{number}")

    def _keep(self, way: Callable[[Any], Any], one: object, name: str = "") -> None:
        try:
            seen = way(one)
        except Exception:  # noqa: BLE001 - what cannot be shown in this way is told, too
            seen = traceback.format_exc()
        if isinstance(seen, bytes):
            (self.out / f"{name}-{id(one)}.pickle").write_bytes(seen)
        else:
            self._shown.write(f"{seen!r}\n")

    @contextmanager
    def failing(self, fault: Fault | None = None) -> Iterator[None]:
        """What must fail, under a fault of the proxy. Writes down the traceback, with the locals of every frame."""
        self.proxy.fault = fault or Fault()
        try:
            yield
        except UrsaError as error:
            self.failures += 1
            logging.getLogger("ursa.life").debug("as it should be", exc_info=True, stack_info=True)
            with_locals = traceback.TracebackException.from_exception(error, capture_locals=True)
            self._locals.write("".join(with_locals.format()))
            self.show(error)
        else:
            raise AssertionError("it did not fail")
        finally:
            self.proxy.fault = Fault()

    def run(self, *arguments: str, code: int = 0) -> None:
        """A command of `ursa`, in this process."""
        self.commands += 1
        sys.argv = ["ursa", *arguments, "--config", str(self.config)]
        try:
            ursa()
            ended = 0
        except SystemExit as end:
            ended = int(end.code or 0)
        if ended != code:
            self.unexpected.append(f"{' '.join(arguments)}: {ended}")


def live(life: Life) -> None:
    nas, recs, buckets = Path(life.told["nas"]), life.told["recordings"], life.told["buckets"]
    webhook = Webhook()
    _complete_webhook(life, webhook)
    data = life.interface()
    data.catalog  # noqa: B018 - opens it

    # The API, and what it gives back.
    result = _ingest_with_a_typed_name(life, data)
    batch = data.ingest_many([nas / recs["many"], nas / recs["waits"], nas / recs["bad"]])
    life.show(data, result, batch, data.profile, data.writer, data.catalog, data.ingest_context(), data._credentials)
    life.show(*(data._credentials.credential(role) for role in ROLES))
    life.show(*data._buckets.values(), *(bucket.wire for bucket in data._buckets.values()))
    life.show(*data.list_recordings(), *data.list_modalities(), data.query(status="raw"))
    life.show(data.plan_many(), data.plan_file(data.plan_many()), data.verify(recs["api"], deep=True), data.fold())
    life.show(*data.unfinished_uploads(), data.sources, data.line)

    # Failures.
    for fault in (
        Refuse("^(PUT|POST) /raw", 403, "AccessDenied"),
        Refuse(".", 400, "ExpiredToken"),
        Refuse("^(PUT|POST) /raw", 403, "RequestTimeTooSkewed"),
        Refuse("^(PUT|POST) /raw", 501, "NotImplemented"),
    ):
        with life.failing(fault):
            life.interface().ingest(source_dir=nas / recs["fails"])
    life.proxy.fault = LoseAnswer(f"PUT /{buckets['raw']}/recordings")
    life.interface().ingest(source_dir=nas / recs["fails"])
    for config in ("with_token.yaml", "swapped.yaml", "broken.yaml"):
        with life.failing():
            life.interface(life.out.parent / config)
    # Those are refused as they are opened, by obstore; these by botocore and by what it signs.
    refused = DataInterface(config_path=life.out.parent / "with_token.yaml")._bucket("raw_rw")
    with life.failing():
        refused.evidence("recordings/none")
    with life.failing():
        refused.list_directories("recordings/", start_after="recordings/a")
    with life.failing():
        data.ingest(source_dir=nas / recs["bad"])
    with life.failing():
        life.interface(writes=False).ingest(source_dir=nas / recs["api"])

    # Notices: taken, refused, given up, and nobody there.
    for answers in ([200], [404], [500, 500]):
        webhook.answers = list(answers)
        post(data.profile, "all is well", seconds=2)
    webhook.answers = []

    _command_line(life)
    _dagster(life)
    (life.out / "notices.json").write_text(json.dumps(webhook.bodies))
    webhook.close()
    post(data.profile, "nobody is there", seconds=2)
    (life.out / "counts.json").write_text(
        json.dumps({"failures": life.failures, "commands": life.commands, "notices": len(webhook.bodies)})
    )
    assert life.unexpected == []
    for stream in (life._shown, life._locals):
        stream.flush()
    _crash(life, data)


def _crash(life: Life, data: DataInterface) -> None:
    """Dies with all secrets in memory and an upload under way; each thread tells where it was."""
    faulthandler.enable()
    life.proxy.fault = hold = Hold("^PUT /raw")
    directory = Path(life.told["nas"]) / life.told["recordings"]["crash"]
    threading.Thread(target=data.ingest, kwargs={"source_dir": directory}, daemon=True).start()
    assert hold.reached.wait(60)
    os.abort()


def _complete_webhook(life: Life, webhook: Webhook) -> None:
    """Puts the port into the URL that the stand-in `op` tells."""
    vault = life.out.parent / "vault"
    path = (vault / "webhook_path.txt").read_text()
    (vault / "webhook.txt").write_text(webhook.url.replace("/services/", f"/services/{path}/"))


def _ingest_with_a_typed_name(life: Life, data: DataInterface) -> IngestResult:
    # Apart, since a local variable of the caller would be shown with the locals of each traceback.
    typed = (life.out.parent / "vault" / "typed.txt").read_text()
    result = data.ingest(source_dir=Path(life.told["nas"]) / life.told["recordings"]["api"], participant=typed)
    (person,) = [row for row in data.list_participants() if (row.metadata or {}).get("display_name") == typed]
    apply_edit(data._write_catalog, plan_rename(data.catalog, person.participant_id, f"{typed} II"), data.writer)
    return result


def _command_line(life: Life) -> None:
    recs, out = life.told["recordings"], life.out
    life.run("ingest", recs["command"], "--yes")
    life.run("ingest", recs["command"], recs["bad"], "--yes", "--json", code=1)
    for way in ((), ("--json",)):
        life.run("plan", recs["command"], "--out", str(out / f"plan{len(way)}.json"), *way)
        life.run("status", *way)
        life.run("query", *way)
        life.run("verify", recs["command"], "--deep", "--yes", *way)
        life.run("history", recs["command"], *way)
        life.run("report", "--out", str(out / "report.html"), *way)
        life.run("metrics", "--out", str(out / "metrics.prom"), *way)
        life.run("download", recs["command"], "--to", str(out.parent / "downloaded"), *way)
        life.run("bandwidth", *way)
        exported = str(out.parent / f"exported{len(way)}")
        life.run("catalog", "export", exported, "--format", ("parquet", "csv")[len(way)], *way)
        life.run("catalog", "fold", *way)
        life.run("doctor", *way, code=life.told["doctor"])


def _served(life: Life) -> None:
    """Dagster's daemon and webserver, until a sensor has ticked; keeps all answers to what its pages ask."""
    code = life.out.parent / "served.py"
    code.write_text(
        "from pathlib import Path\n\nfrom ursa_pipelines.orchestration.definitions import build_definitions\n\n"
        f"defs = build_definitions(None, Path({str(life.config)!r}))\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dagster", "dev", "-f", str(code), "-h", "127.0.0.1", "-p", str(port)]
    with (life.out / "served.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, process_group=0)
    deadline, answers = time.monotonic() + _SERVED_SECONDS, list[Any]()
    try:
        while not (answers and '"cursor": "' in json.dumps(answers[0])):
            assert time.monotonic() < deadline and server.poll() is None, answers
            time.sleep(0.5)
            with contextlib.suppress(OSError, http.client.HTTPException):
                answers = [_asked(port, question) for question in ASKED]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    (life.out / "graphql.json").write_text(json.dumps(answers))


def _asked(port: int, question: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/graphql", json.dumps({"query": question}), {"Content-Type": "application/json"})
        answer = json.load(connection.getresponse())
    finally:
        connection.close()
    assert "errors" not in answer, answer["errors"]
    return answer["data"]


def _dagster(life: Life) -> None:
    recs = life.told["recordings"]
    definitions = build_definitions(None, life.config)
    snapshot = dg.serialize_value(RepositorySnap.from_def(definitions.get_repository_def()))
    (life.out / "repository_snapshot.json").write_text(snapshot)
    home = Path(os.environ["DAGSTER_HOME"])
    resource = UrsaResource(config_path=str(life.config))
    resource.data().enable_writes(roles=WRITE_ROLES)
    life.show(resource, definitions)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for names, fault in (
            (("dagster", "bad", "waits"), Fault()),
            (("last",), Refuse("^(PUT|POST) /raw", 403, "AccessDenied")),
            (("last",), Fault()),
        ):
            keys = sorted(recs[name] for name in names)
            instance.add_dynamic_partitions("recordings", keys)
            ends = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
            tags = {"dagster/partition": keys[0]} if len(keys) == 1 else ends
            job = dg.build_reconstructable_job("tests.orchestration.launch", make_job.__name__, (str(life.config),))
            life.proxy.fault = fault
            dg.execute_job(job, instance, tags=tags)
        for name in ("nas_sensor", "r2_sensor"):
            with dg.build_sensor_context(
                instance=instance, resources={"ursa": UrsaResource(config_path=str(life.config))}
            ) as context:
                tick = definitions.resolve_sensor_def(name)(context)
                life.show(tick, *tick.asset_events)
    _served(life)


def main() -> None:
    directory = Path(sys.argv[1])
    warnings.simplefilter("ignore")
    life = Life(directory)
    for config in directory.glob("*.yaml"):
        config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "endpoint": life.proxy.url}))
    everything = logging.FileHandler(directory / "out" / "debug.log")
    everything.setLevel(0)
    everything.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s %(args)r"))
    as_json = logging.FileHandler(directory / "out" / "debug.jsonl")
    as_json.setFormatter(JsonFormatter())
    for handler in (everything, as_json):
        logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(0)
    for name in ("ursa", "dagster", "botocore", "boto3", "urllib3", "deltalake", "obstore", "py.warnings"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))
    live(life)


if __name__ == "__main__":
    main()
