"""The production layout on one machine: PostgreSQL, Redis, code servers, webserver, daemon, and a worker for each site.

    uv run --extra production python deploy/one_machine.py

starts all of it on loopback addresses, with the settings of deploy/dagster.yaml, two sites and a source directory for
each, and the object store of this machine. What dies is started again, as systemd would. Ctrl-C ends everything. It is
for trying and testing the layout; docs/deploying.md tells how to run it on hosts of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn

SITES = ("lab1", "lab2")

_HERE = Path(__file__).resolve().parent
_START_SECONDS = 120.0
_END_SECONDS = 20.0
_RESTART_SECONDS = 2.0
_NOTE = "Put recording directories rec_<YYYYMMDD>_<HHMMSS>_<hex>/ here.\n"
_POSTGRES_ACCOUNT = "postgres"


def main() -> None:
    """Runs until it is told to end."""
    parser = argparse.ArgumentParser(description="Starts the production layout on this machine.")
    parser.add_argument("--state", type=Path, default=Path(".ursa/production"), help="directory for all it keeps")
    parser.add_argument("--port", type=int, default=3000, help="port of the UI; 0 takes a free one")
    given = parser.parse_args()
    layout = Layout(given.state.absolute(), given.port or free_port())
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    try:
        layout.start()
        layout.watch()
    except KeyboardInterrupt:
        print("Ending ...", flush=True)
    finally:
        layout.end()


@dataclass
class Program:
    """One of the programs that run: how it is started, and in which process group it runs now."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    ending: signal.Signals = signal.SIGTERM
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def end(self) -> None:
        """Asks it to end, and makes sure of it and of all that it started."""
        if self.process is None:
            return
        if self.is_running:
            self.process.send_signal(self.ending)
            try:
                self.process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                print(f"{self.name} does not end; it is killed", flush=True)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(_END_SECONDS)


@dataclass
class Layout:
    """Everything below `state`: `dagster` is DAGSTER_HOME, `hosts/SITE` stands for a host of that site."""

    state: Path
    port: int
    programs: dict[str, Program] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Starts one after another, each once the one before answers. Raises `SystemExit` if something is missing."""
        initdb, postgres, redis = program("initdb"), program("postgres"), program("redis-server")
        for directory in ("dagster", "logs", *(f"hosts/{site}/nas" for site in SITES), "hosts/central"):
            (self.state / directory).mkdir(parents=True, exist_ok=True)
        for site in SITES:
            (self.source(site) / "README.txt").write_text(_NOTE)
        self.start_postgres(initdb, postgres, free_port())
        self.start_redis(redis, free_port())
        self.write_settings()
        self.prepare()
        ports = {name: free_port() for name in ("central", *SITES)}
        self.write_workspace(ports)
        for name, port in ports.items():
            self.run(f"code-{name}", name, dagster("dagster"), "api", "grpc", "--host", "127.0.0.1", "-p", str(port),
                     "--python-file", str(self.state / f"{name}.py"), "--location-name", name)  # fmt: skip
        worker = [sys.executable, "-m", "ursa_pipelines.orchestration.worker"]
        self.run("worker-lab1", "lab1", *worker, "lab1", "--central")
        self.run("worker-lab2", "lab2", *worker, "lab2")
        for name, port in ports.items():
            self.wait_for(f"code-{name}", lambda port=port: answers(port))  # type: ignore[misc]
        workspace = str(self.state / "workspace.yaml")
        self.run("webserver", "central", dagster("dagster-webserver"), "-h", "127.0.0.1", "-p", str(self.port),
                 "-w", workspace)  # fmt: skip
        self.run("daemon", "central", dagster("dagster-daemon"), "run", "-w", workspace)
        self.wait_for("webserver", lambda: answers(self.port))
        self.write_processes()
        print(f"Dagster UI: http://127.0.0.1:{self.port}  (Ctrl-C ends everything). Put recordings into:")
        for site in SITES:
            print(f"  {self.source(site)}")
        print(f"Logs: {self.state / 'logs'}", flush=True)

    def watch(self) -> NoReturn:
        """Starts again what has died, as a service manager does."""
        while True:
            time.sleep(_RESTART_SECONDS)
            for one in self.programs.values():
                if not one.is_running:
                    one.end()
                    print(f"{one.name} has died; it is started again (its log is {one.log})", flush=True)
                    one.start()
                    self.write_processes()

    def end(self) -> None:
        """Ends everything, in the order opposite to that of the start."""
        for one in reversed(self.programs.values()):
            one.end()

    def source(self, site: str) -> Path:
        """The directory that stands for the site's NAS."""
        return self.state / "hosts" / site / "nas"

    def start_postgres(self, initdb: str, postgres: str, port: int) -> None:
        """PostgreSQL refuses to run as root: then it runs as the account of Debian's package."""
        as_account: list[str] = []
        data = self.state / "postgres"
        if os.getuid() == 0:
            account = pwd.getpwnam(_POSTGRES_ACCOUNT)
            # A directory of its own, since nobody but root may look into the one above.
            data = Path("/var/lib/postgresql") / f"ursa-{secrets.token_hex(4)}"
            data = Path(self._remembered("postgres_at", str(data)))
            data.mkdir(mode=0o700, exist_ok=True)
            os.chown(data, account.pw_uid, account.pw_gid)
            as_account = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        password = self._remembered("postgres_password", secrets.token_urlsafe(24))
        passfile = self._private("pgpass", f"127.0.0.1:*:*:dagster:{password}\n")
        if not (data / "PG_VERSION").exists():
            # In a file for a moment: an argument of a process would show it to everybody.
            words = data.with_suffix(".password")
            with os.fdopen(os.open(words, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(password)
            if as_account:
                os.chown(words, account.pw_uid, account.pw_gid)
            try:
                subprocess.run(
                    [*as_account, initdb, "-D", str(data), "-U", "dagster", "--auth=scram-sha-256", "-E", "UTF8",
                     "--no-sync", f"--pwfile={words}"],
                    check=True, stdout=subprocess.DEVNULL, cwd="/",
                )  # fmt: skip
            finally:
                words.unlink()
        self._start(
            "postgres",
            [*as_account, postgres, "-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1",
             "-c", "unix_socket_directories="],
            os.environ,
            ending=signal.SIGINT,
        )  # fmt: skip
        self.environment = {
            **os.environ,
            "DAGSTER_HOME": str(self.state / "dagster"),
            "PGPASSFILE": str(passfile),
            "DAGSTER_POSTGRES_URL": f"postgresql+psycopg2://dagster@127.0.0.1:{port}/postgres",
        }
        self.wait_for("postgres", lambda: answers(port))

    def start_redis(self, redis: str, port: int) -> None:
        password = self._remembered("redis_password", secrets.token_urlsafe(24))
        directory = self.state / "redis"
        directory.mkdir(exist_ok=True)
        settings = self._private(
            "redis.conf",
            f"bind 127.0.0.1\nport {port}\nrequirepass {password}\nappendonly yes\ndir {directory}\nsave ''\n",
        )
        self._start("redis", [redis, str(settings)], os.environ)
        self.environment["DAGSTER_CELERY_BROKER"] = f"redis://:{password}@127.0.0.1:{port}/0"
        self.wait_for("redis", lambda: answers(port))

    def write_settings(self) -> None:
        """The files of /etc/ursa and DAGSTER_HOME, from those beside this script."""
        profile = self.state / "profile.yaml"
        settings = (_HERE / "dagster.yaml").read_text().replace("/etc/ursa/profile.yaml", str(profile))
        # This profile changes no other, and has all that one needs.
        settings = settings.replace("    profile: r2\n", "")
        (self.state / "dagster" / "dagster.yaml").write_text(settings)
        # HOME is that of the site's host: a source is there on its own host only.
        sources = "".join(f"  - {{name: {site}_nas, path: ~/nas, site: {site}}}\n" for site in SITES)
        profile.write_text(
            "name: one-machine\nfamily: local\nstore: embedded\n"
            "buckets: {raw: constellation-data, assets: constellation-assets}\n"
            f"sources:\n{sources}"
            "settings: {quiet_period: 5, reconstruct_after: 5, reconstruct_after_bucket: 5}\n"
        )
        for name in ("central", *SITES):
            call, more = ("build_definitions", "") if name == "central" else ("build_site_definitions", f', "{name}"')
            (self.state / f"{name}.py").write_text(
                "from pathlib import Path\n\n"
                f"from ursa_pipelines.orchestration.definitions import {call}\n\n"
                f'defs = {call}(None, Path("{profile}"){more})\n'
            )

    def write_workspace(self, ports: Mapping[str, int]) -> None:
        lines = [
            f"  - grpc_server: {{host: 127.0.0.1, port: {port}, location_name: {name}}}" for name, port in ports.items()
        ]
        (self.state / "workspace.yaml").write_text("\n".join(["load_from:", *lines, ""]))

    def prepare(self) -> None:
        """Makes Dagster's tables, and the store with its catalog, before anybody else looks for them."""
        told = (
            "import dagster as dg, pathlib\n"
            "from ursa_pipelines import DataInterface\n"
            f"DataInterface(config_path=pathlib.Path({str(self.state / 'profile.yaml')!r})).catalog\n"
            "with dg.DagsterInstance.get() as instance:\n"
            "    instance.get_run_records(limit=1)\n"
        )
        with (self.state / "logs" / "prepare.log").open("ab") as log:
            done = subprocess.run(
                [sys.executable, "-c", told], env=self.on("central"), check=False, stdout=log, stderr=log
            )
        if done.returncode != 0:
            raise SystemExit(f"the database or the store cannot be prepared; see {self.state / 'logs' / 'prepare.log'}")

    def on(self, host: str) -> dict[str, str]:
        """The environment of a program on the host that this directory stands for."""
        return {**self.environment, "HOME": str(self.state / "hosts" / host)}

    def run(self, name: str, host: str, *command: str) -> None:
        self._start(name, command, self.on(host))

    def wait_for(self, name: str, is_there: Callable[[], bool]) -> None:
        """Raises `SystemExit` with the end of its log if it ends, or does not answer in time."""
        deadline = time.monotonic() + _START_SECONDS
        one = self.programs[name]
        while not is_there():
            if not one.is_running or time.monotonic() > deadline:
                told = "".join(one.log.read_text(errors="replace").splitlines(keepends=True)[-12:])
                raise SystemExit(f"{name} did not start:\n{told}")
            time.sleep(0.1)

    def write_processes(self) -> None:
        """What runs, for whoever wants to look at it or to kill it: name to process group."""
        groups = {name: one.process.pid for name, one in self.programs.items() if one.process}
        draft = self.state / "processes.json.new"
        draft.write_text(json.dumps({"port": self.port, "groups": groups}, indent=1))
        draft.replace(self.state / "processes.json")

    def _start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], ending: signal.Signals = signal.SIGTERM
    ) -> None:
        one = Program(name, command, environment, self.state / "logs" / f"{name}.log", ending)
        self.programs[name] = one
        one.start()

    def _remembered(self, name: str, new: str) -> str:
        kept = self.state / "secrets" / name
        if not kept.exists():
            self._private(f"secrets/{name}", new)
        return kept.read_text()

    def _private(self, name: str, content: str) -> Path:
        """A file that only its owner can read, from its first byte on."""
        path = self.state / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(content)
        return path


def program(name: str) -> str:
    """The absolute path of a program; PostgreSQL's are not on PATH in Debian. Raises `SystemExit` without it."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for directory in (None, *map(str, versions)):
        if found := shutil.which(name, path=directory):
            return str(Path(found).absolute())
    raise SystemExit(f"{name} is not installed: apt-get install postgresql redis-server")


def dagster(name: str) -> str:
    """A command of Dagster that belongs to this Python."""
    return str(Path(sys.executable).with_name(name))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _end(number: int, frame: FrameType | None) -> NoReturn:
    # A second one must not cut the ending short.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
