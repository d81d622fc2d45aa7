"""What the pages say can be done: every command in them runs, every snippet, and every link leads somewhere.

A page's commands run in the order in which it tells them, in one lab that has the recordings of the demo. What they
print is the affair of other tests.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.cli.test_commands import Command
from tests.lab import Lab, make_lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.cli import operations
from ursa_pipelines.cli.main import app
from ursa_pipelines.embedded.demo_recordings import make_demo_recordings
from ursa_pipelines.embedded.store import EmbeddedStore, open_store
from ursa_pipelines.profiles import load_profile

ROOT = Path(__file__).parents[2]
PAGES = {path.relative_to(ROOT).as_posix(): path for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]}
LONG = ("README.md", "docs/operating.md")
"""Those that tell of many commands have a lab of their own; the others share one, for what these do not tell of."""
REC_ID, MISSPELT = "rec_20260520_195628_b1dd", "rec_20260525_101010_a1b2"

_ROLES = ("assets_ro", "assets_rw", "raw_ro", "raw_rw")
_PROGRAMS = {"ursa", "uv", "pip", "mv", "bash", "dagster", "apt-get", "python"}
_STAND_IN_OP = '#!/bin/sh\ncase "$3" in *id) printf %s {id} ;; *) printf %s {key} ;; esac\n'

_LINES = {"", "sh", "bash", "console"}
_A_PROFILE = re.compile(r'DataInterface\(profile="[a-z0-9-]+"\)')
_RECONSTRUCT = "uv run python examples/reconstruct_missing_manifests.py --profile r2 --rec-id REC_ID --yes"

RUN_ELSEWHERE = {
    "pip install uv": "what .ci/run begins with",
    "apt-get install chromium": "what .ci/run begins with",
    "uv sync": "what .ci/run begins with",
    "uv sync --extra probe": "what .ci/run begins with",
    "bash .ci/run": "itself",
    "uv run pytest": "this run",
    "uv run pytest tests/ui": "tests/ui/test_operator.py",
    "uv run python -m scripts.picture_asset_graph": "by hand, with a browser",
    "uv run python benchmarks/transfer.py": "by hand, with its peers",
    "uv run python -m benchmarks.scaling": "by hand: it takes some minutes",
    "uv run python -m benchmarks.projection": "tests/docs/test_scaling.py",
    "uv run python -m tests.faults.report": "tests/faults/test_report.py",
    "uv run python -m tests.faults.report --long --only kills": "tests/faults/test_report.py",
    "ursa demo": "tests/cli/test_demo.py",
    "ursa dev": "tests/orchestration/test_daemon.py",
    "ursa metrics": "tests/cli/test_metrics.py",
    "dagster instance concurrency set fold 1": "Dagster's own",
    "dagster instance migrate": "Dagster's own",
    "apt-get install postgresql redis-server": "by hand, for the next one",
    "uv run --extra production python deploy/one_machine.py": "tests/deploy/test_production.py",
    _RECONSTRUCT: "tests/test_runbook.py",
    "uv run python scripts/backfill_participants.py --profile r2 --commit": "tests/cli/test_participants.py",
}
"""Commands that cannot run in a lab, and what runs them."""

NAMES = {
    "ursa backfill",
    "ursa partitions archive",
    "ursa retry",
    "ursa participants",
    "ursa release",
    "ursa catalog diff PREFIX",
    "ursa catalog cutover PREFIX",
    "ursa catalog rollback",
}
"""What names a verb in a sentence and is no whole command; such a verb must exist."""

ANSWERED_WITH_NO = {"ursa backfill --missing", "ursa backfill --since 2026-05-01", "ursa backfill REC_ID REC_ID"}
"""Runs through Dagster, which take seconds; tests/cli/test_operations.py has such."""

EXIT_CODES = {
    # The demo has a recording that is damaged and one that is being copied.
    "ursa plan": 1,
    "ursa plan --profile r2 --config my.yaml": 1,
    "ursa ingest": 1,
    "ursa ingest --yes --json": 1,
    # It has a row, so its claim is in nobody's way.
    "ursa doctor --release-claim REC_ID": 3,
    # Findings, differences.
    "ursa participants audit": 1,
}
"""What a command of the pages exits with, if not 0."""

SNIPPETS_RUN_ELSEWHERE = {"pl.scan_delta(": "tests/catalog/tables/test_outsiders.py"}


@dataclass(frozen=True)
class Desk:
    """The command, the lab it works on, and how the names in the pages are called there."""

    ursa: Command
    lab: Lab
    names: dict[str, str]

    def named_here(self, text: str) -> str:
        return re.sub("|".join(map(re.escape, self.names)), lambda found: self.names[found[0]], text)


@pytest.fixture
def desk(
    store_state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Desk:
    """Its state, such as the cap on uploads, is apart from that of other tests, and nothing listens for a backfill."""
    monkeypatch.setenv("DAGSTER_HOME", str(store_state / "dagster"))
    lab = make_lab(store_state, tmp_path)
    _fill(lab)
    config = _apart(lab, open_store(store_state), tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setattr(operations, "DEFAULT_URL", f"http://127.0.0.1:{probe.getsockname()[1]}")
    names = {
        "REC_ID": REC_ID,
        "PREFIX": "ursa/catalog-2026-12",
        "VERB": "plan",
        "/Volumes/Drive": str(lab.usb),
        ".ursa/nas": str(lab.nas),
        "/tmp/check": str(tmp_path / "check"),
        "...": "mended",
    }
    return Desk(Command(config, capsys, monkeypatch), lab, names)


@pytest.mark.parametrize("pages", [LONG[:1], LONG[1:], sorted(PAGES.keys() - LONG)], ids=" ".join)
def test_every_command_of_the_pages_runs(pages: Sequence[str], desk: Desk):
    failed = []

    for written in _commands(*pages):
        if written in RUN_ELSEWHERE or (pages[0] not in LONG and written in _commands(*LONG)):
            continue
        try:
            _run(written, desk)
        except Exception as error:  # noqa: BLE001 - all that a page has wrong is told at once
            failed.append(f"{written}\n    {type(error).__name__}: {str(error)[:600]}")

    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("page", [page for page, path in PAGES.items() if "import DataInterface" in path.read_text()])
def test_every_python_snippet_of_a_page_runs(page: str, desk: Desk):
    names: dict[str, object] = {"__name__": page}

    for number, code in enumerate(_fences(PAGES[page], "python")):
        if any(mark in code for mark in SNIPPETS_RUN_ELSEWHERE):
            continue
        code = re.sub(
            r'DataInterface\(profile="[a-z0-9-]+"\)', f'DataInterface(config_path="{desk.ursa.config}")', code
        )
        exec(compile(desk.named_here(code), f"{page}, snippet {number + 1}", "exec"), names)

    assert "data" in names


def test_what_is_run_elsewhere_is_still_in_the_pages_and_elsewhere_exists():
    told = set(_commands(*PAGES))

    assert RUN_ELSEWHERE.keys() <= told
    assert EXIT_CODES.keys() | NAMES | ANSWERED_WITH_NO <= told
    for where in (*RUN_ELSEWHERE.values(), *SNIPPETS_RUN_ELSEWHERE.values()):
        assert not where.startswith("tests/") or (ROOT / where).is_file()


def test_every_verb_of_the_command_is_told_of():
    told = "\n".join(page.read_text() for page in PAGES.values())
    missing = [verb for verb in _verbs(typer.main.get_command(app)) if not re.search(rf"\bursa {verb}\b", told)]

    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_every_profile_and_document_of_a_page_can_be_read(page: str, tmp_path: Path):
    for text in _fences(PAGES[page], "yaml"):
        (tmp_path / "page.yaml").write_text(text)
        load_profile(None if "endpoint:" in text else "r2", tmp_path / "page.yaml")
    for text in _fences(PAGES[page], "json"):
        json.loads(text)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page: str):
    here = PAGES[page]

    for target in _links(here):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (here.parent / path).resolve() if path else here
        assert there.exists(), target
        assert not anchor or anchor in _anchors(there), target


@pytest.mark.parametrize("page", PAGES)
def test_every_module_and_test_that_a_page_names_exists(page: str):
    tests = "\n".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))

    for code in _inline_code(PAGES[page]):
        for name in re.findall(r"[\w/.-]+\.py\b|(?:tests|docs|scripts|examples|benchmarks)/[\w/.-]+", code):
            assert (ROOT / name).exists() or (ROOT / "ursa_pipelines" / name).exists(), name
        for name in re.findall(r"\btest_\w+\b(?!\.py)", code):
            assert f"def {name}" in tests, name


def _apart(lab: Lab, store: EmbeddedStore, directory: Path, patch: pytest.MonkeyPatch) -> Path:
    """A profile of the lab's buckets whose state lies below `directory`; credentials come from a stand-in `op`."""
    programs = directory / "programs"
    programs.mkdir()
    op = programs / "op"
    op.write_text(_STAND_IN_OP.format(id=store.access_key_id, key=store.secret_access_key))
    op.chmod(0o700)
    patch.setenv("PATH", str(programs), prepend=os.pathsep)
    home = directory / ".ursa" / f"dagster-{secrets.token_hex(4)}"
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    patch.setenv("DAGSTER_HOME", str(home))
    references = {"access_key_id": "op://Lab/Store/id", "secret_access_key": "op://Lab/Store/key"}
    profile = yaml.safe_load(lab.config.read_text())
    profile |= {"store": "s3", "endpoint": store.endpoint, "credentials": dict.fromkeys(_ROLES, references)}
    profile |= {"release": {"enabled": True, "retention_days": 0, "grace_days": 0}}
    config = directory / "apart.yaml"
    config.write_text(yaml.safe_dump(profile))
    return config


def _fill(lab: Lab) -> None:
    """The recordings of the demo, the sound ones ingested, and one whose participant was misspelt."""
    made = make_demo_recordings(lab.nas, lab.usb)
    write_recording(lab.nas, MISSPELT, {"notes/a.jsonl": b"{}\n"}, participant="Aria Linn")
    for one in made:
        for key, body in one.objects.items():
            lab.raw.create(key, body)
            lab.data.ingest_from_r2(one.rec_id) if key.endswith("/manifest.json") else None
    for one in made[:4]:
        for directory in one.directories:
            lab.data.ingest(source_dir=directory)
    lab.data.ingest(source_dir=lab.nas / MISSPELT)


def _run(written: str, desk: Desk) -> None:
    """Runs one command as it is written, but for names and the profile; what it asks for is answered with yes."""
    program, *arguments = [desk.named_here(word) for word in shlex.split(written)]
    if program == "mv":
        shutil.move(*arguments)
        return
    assert program == "ursa", "it is neither run here nor named in RUN_ELSEWHERE"
    for option in ("--profile", "--config"):
        if option in arguments:
            place = arguments.index(option)
            del arguments[place : place + 2]
    if "[" in written:
        options = {name for one in _verb(arguments).params for name in (*one.opts, *one.secondary_opts)}
        assert set(re.findall(r"--[a-z-]+", written)) <= options
    elif written in NAMES:
        assert _verb(arguments)
    elif written in ANSWERED_WITH_NO:
        desk.ursa(*arguments, typed="n", code=3)
    else:
        desk.ursa(*arguments, typed="y", code=EXIT_CODES.get(written, 0))


def _commands(*pages: str) -> list[str]:
    """The commands of pages in their order, each once: lines of code, and what stands between backticks."""
    found: dict[str, None] = {}
    for token in (token for page in pages for token in _tokens(PAGES[page])):
        if token.type == "code_block" or (
            token.type == "fence" and token.info.strip() in {"", "sh", "bash", "console"}
        ):
            lines = token.content.splitlines()
        elif token.type == "code_inline":
            lines = [token.content]
        else:
            continue
        for line in lines:
            for part in re.split(r"\s*&&\s*", re.sub(r"\s+#.*", "", line.strip().removeprefix("$ "))):
                # What reads a command's answer is not ours.
                command = part.partition(" | ")[0]
                command = command.removeprefix("uv run ") if command.startswith("uv run ursa") else command
                words = command.split()
                if len(words) > 1 and words[0] in _PROGRAMS and words != ["uv", "run"]:
                    found[command] = None
    return list(found)


def _fences(page: Path, language: str) -> list[str]:
    return [token.content for token in _tokens(page) if token.type == "fence" and token.info.strip() == language]


def _inline_code(page: Path) -> list[str]:
    return [token.content for token in _tokens(page) if token.type == "code_inline"]


def _links(page: Path) -> list[str]:
    targets = (token.attrGet("href") or token.attrGet("src") for token in _tokens(page))
    return [str(target) for target in targets if target]


def _anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub turns them into anchors."""
    tokens = MarkdownIt().parse(page.read_text())
    titles = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.casefold()).replace(" ", "-") for title in titles}


def _tokens(page: Path) -> Iterator[Token]:
    for token in MarkdownIt().enable("table").parse(page.read_text()):
        yield token
        yield from token.children or ()


def _verb(words: Sequence[str]) -> Any:
    """The verb, or the group of verbs, that these words begin with."""
    command = typer.main.get_command(app)
    assert words[0] in command.commands
    for word in words:
        command = getattr(command, "commands", {}).get(word, command)
    return command


def _verbs(command: Any, path: str = "") -> Iterator[str]:
    if not hasattr(command, "commands"):
        yield path
        return
    for name, one in command.commands.items():
        yield from _verbs(one, f"{path} {name}".strip())
