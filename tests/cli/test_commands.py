"""The verbs of `ursa` as scripts and operators use them: what they print, what they refuse, how they exit."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.cli.main import main
from ursa_pipelines.embedded.store import open_store

GOOD, BAD, LATE, OTHER = (f"rec_20260520_19562{digit}_b1dd" for digit in "1234")
FILES = {"camera_a/seg_0000.mp4": b"video" * 100, "mic/seg_0000.wav": b"audio" * 10}


class Command:
    """`ursa` in this process, away from a terminal unless something is typed."""

    def __init__(self, config: Path, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.config, self._capture, self._patch = config, capture, patch
        patch.setenv("COLUMNS", "200")

    def __call__(
        self, *arguments: str | Path, code: int = 0, typed: str | None = None, only_output: bool = False
    ) -> str:
        """What the command prints; on standard error, too, if it fails."""
        with self._patch.context() as patch, Path(os.devnull).open() as nobody:
            patch.setattr(sys, "argv", ["ursa", *map(str, arguments), "--config", str(self.config)])
            patch.setattr(sys, "stdin", nobody if typed is None else _terminal(typed))
            with pytest.raises(SystemExit) as exit:
                main()
                raise SystemExit(0)
        printed = self._capture.readouterr()
        assert (exit.value.code or 0) == code, printed
        return printed.out + printed.err if code and not only_output else printed.out

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        """The document, which alone is on standard output."""
        document = json.loads(self(*arguments, "--json", code=code, only_output=True))
        assert (document["format"], document["exit_code"], document["ok"]) == (1, code, code == 0)
        return document


def _terminal(typed: str) -> Any:
    controller, terminal = pty.openpty()
    os.write(controller, f"{typed}\n".encode())
    return os.fdopen(terminal)


@pytest.fixture
def ursa(lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(lab.config, capsys, monkeypatch)


def stored_without_a_row(lab: Lab, directory: Path) -> None:
    """What a rig's uploader leaves that dies before it registers."""
    for file in directory.rglob("*"):
        if file.is_file():
            lab.raw.create(f"recordings/{directory.name}/{file.relative_to(directory)}", file.read_bytes())


@pytest.mark.parametrize(
    "arguments", [["ingest", GOOD], ["register", OTHER], ["reconstruct", LATE], ["catalog", "init"]]
)
def test_nothing_is_written_without_yes_away_from_a_terminal(
    arguments: list[str], ursa: Command, lab: Lab, tmp_path: Path
):
    write_recording(lab.nas, GOOD, FILES)
    stored_without_a_row(lab, write_recording(tmp_path, OTHER, FILES))
    stored_without_a_row(lab, write_recording(tmp_path, LATE, FILES, manifest=False))
    before = lab.everything()

    told = ursa(*arguments, code=2)

    assert "--yes" in told
    assert lab.everything() == before


def test_unknown_options_are_a_matter_of_usage(ursa: Command):
    assert "--frobnicate" in ursa("query", "--frobnicate", code=2)


def test_a_profile_that_does_not_exist_is_refused(ursa: Command):
    assert "there is no profile 'elsewhere'" in ursa("query", "--profile", "elsewhere", code=3)


def test_catalog_init_leaves_what_is_there(ursa: Command, lab: Lab):
    before = lab.everything()

    assert ursa("catalog", "init", "--yes") == f"catalog at {lab.data.catalog.prefix}\n"
    assert lab.everything() == before


def production_profile(lab: Lab, state: Path, raw: str, directory: Path, patch: pytest.MonkeyPatch) -> Path:
    """A profile of the family production in the embedded store, and a stand-in `op` that opens it."""
    buckets = {"raw": raw, "assets": f"production-{lab.assets.name}"}
    store = open_store(state, tuple(buckets.values()))
    keys = {"access_key_id": store.access_key_id, "secret_access_key": store.secret_access_key}
    programs = directory / "programs"
    programs.mkdir()
    for name, value in keys.items():
        (programs / name).write_text(value)
    op = programs / "op"
    op.write_text(f'#!/bin/sh\nexec cat "{programs}/${{3##*/}}"\n')
    op.chmod(0o700)
    patch.setenv("PATH", str(programs), prepend=os.pathsep)
    references = {name: f"op://Vault/Store/{name}" for name in keys}
    profile = {
        "name": "production",
        "family": "production",
        "endpoint": store.endpoint,
        "buckets": buckets,
        "credentials": dict.fromkeys(("assets_ro", "assets_rw", "raw_ro", "raw_rw"), references),
        "sources": [{"name": "nas", "path": str(lab.nas)}],
    }
    config = directory / "production.yaml"
    config.write_text(yaml.safe_dump(profile))
    return config


def test_help_is_there_before_anything_heavy_is_imported():
    heavy = ("dagster", "boto3", "obstore", "pyarrow", "pandas", "deltalake", "pydantic")
    program = (
        "import sys, ursa_pipelines\n"
        "from ursa_pipelines.cli.main import main\n"
        "sys.argv = ['ursa', '--help']\n"
        "try: main()\n"
        f"except SystemExit: print([name for name in {heavy} if name in sys.modules], file=sys.stderr)\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert done.stderr == "[]\n"
    for verb in (
        "demo",
        "dev",
        "plan",
        "apply",
        "ingest",
        "register",
        "reconstruct",
        "verify",
        "status",
        "query",
        "download",
        "bandwidth",
        "catalog",
        "doctor",
    ):
        assert verb in done.stdout
