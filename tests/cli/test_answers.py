"""`--json`: every command that has it answers in the one form of docs/answer.schema.json, whatever becomes of it."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

import pytest
import typer
from jsonschema import Draft202012Validator

from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.cli.answers import note_summary, print_answer
from ursa_pipelines.cli.failures import Interrupted
from ursa_pipelines.cli.main import app, main
from ursa_pipelines.recordings.identity import derive_participant_id

DOCS = Path(__file__).parents[2] / "docs"
FIRST, SECOND, BAD, ABSENT = (f"rec_20260520_19562{digit}_b1dd" for digit in "1234")
ARIA, ARYA = map(derive_participant_id, ("Aria Lin", "Arya Lin"))
FRESH = "ursa/catalog-fresh"


@dataclass(frozen=True)
class Answer:
    """A document that is valid, and beside it standard error. Its exit code was that of the command."""

    document: dict[str, Any]
    errors: str

    @property
    def error(self) -> dict[str, Any]:
        return self.document["error"]


Ask = Callable[..., Answer]


@pytest.fixture
def ask(lab: Lab, store_state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    home = store_state / f"dagster-{secrets.token_hex(4)}"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    schema = Draft202012Validator(json.loads((DOCS / "answer.schema.json").read_text()))

    def run(*arguments: str | Path, code: int | None = 0, typed: Any = None, config: bool = True) -> Answer:
        profile = ("--config", lab.config) if config else ()
        line = ["ursa", *map(str, (*arguments, "--json", *profile))]
        with monkeypatch.context() as patch, Path(os.devnull).open() as nobody:
            patch.setattr(sys, "argv", line)
            patch.setattr(sys, "stdin", nobody if typed is None else typed)
            with pytest.raises(SystemExit) as exit:
                main()
                raise SystemExit(0)
        out, errors = capsys.readouterr()
        document = json.loads(out, parse_constant=pytest.fail)
        schema.validate(document)
        assert document["exit_code"] == (exit.value.code or 0), (line, document, errors)
        assert code in (None, document["exit_code"]), (line, document, errors)
        return Answer(document, errors)

    return run


def terminal(typed: str) -> TextIO:
    controller, end = pty.openpty()
    os.write(controller, f"{typed}\n".encode())
    return os.fdopen(end)


class CtrlC(io.TextIOBase):
    """A terminal at which a question is answered with Ctrl-C."""

    def isatty(self) -> bool:
        return True

    def readline(self, _: int = -1) -> str:
        raise KeyboardInterrupt


def commands(*, with_json: bool) -> Iterator[str]:
    """All commands that are not hidden, or only those with `--json`."""
    waiting = [("", typer.main.get_command(app))]
    while waiting:
        path, command = waiting.pop()
        for name, below in getattr(command, "commands", {}).items():
            if not below.hidden:
                waiting.append((f"{path} {name}".strip(), below))
        is_leaf = not hasattr(command, "commands")
        if is_leaf and not (with_json and not any("--json" in one.opts for one in command.params)):
            yield path


def has_other_form(value: Any) -> bool:
    """Whether a time or a duration is told in another way than docs/command.md says; what is stored is as it is."""
    if isinstance(value, dict):
        return any(has_other_form(one) for name, one in value.items() if name != "metadata")
    if isinstance(value, list):
        return any(map(has_other_form, value))
    return isinstance(value, str) and re.fullmatch(r"-?P[0-9DTHMS.]+|\d{4}-\d\d-\d\d[T ].*[^Z]", value) is not None


@dataclass
class Asked:
    """A command line that is run, with its exit code and how many items it answers with, if that is to be known."""

    line: str
    code: int = 0
    items: int | None = None
    arguments: list[str] = field(default_factory=list)


def asked(nas: Path, out: Path) -> list[Asked]:
    """The story of a lab in which every command is asked for a document at least once."""
    return [
        Asked("catalog init --yes", items=1),
        Asked("plan", 1, 3),
        Asked(f"plan {nas / FIRST} --out {out / 'plan.json'}", items=1),
        Asked(f"apply {out / 'plan.json'} --yes", items=1),
        Asked(f"ingest --yes {nas / FIRST} {nas / BAD}", 1, 2),
        Asked(f"ingest --yes {nas / SECOND}", 0, 1),
        Asked(f"register {FIRST} --yes", items=1, arguments=["--participant", "Aria Lin"]),
        Asked(f"register {ABSENT} --yes", 1, 1),
        Asked(f"reconstruct {FIRST} --yes", items=1),
        Asked(f"verify {FIRST} {ABSENT}", 1, 2),
        Asked(f"verify {FIRST} --deep --yes", items=1),
        Asked("query", items=2),
        Asked(f"download {FIRST} --to {out / 'down'}", items=1),
        Asked("status --all", items=3),
        Asked("doctor", None),
        Asked("bandwidth", items=1),
        Asked("bandwidth --clear", items=1),
        Asked(f"report --out {out / 'report.html'}", items=1),
        Asked("metrics"),
        Asked("scrub --dry-run --rest-days 0", items=2),
        Asked("scrub --yes --rest-days 0", items=2),
        Asked("backfill --missing --dry-run", 0, 1),
        Asked(f"quarantine {BAD} {ABSENT} --reason damaged --yes", 1, 2),
        Asked("retry --quarantined --yes --url http://127.0.0.1:9", 0, 1),
        Asked(f"waive {BAD} --reason damaged --yes", 0, 1),
        Asked(f"history {BAD}"),
        Asked(f"history {ABSENT}", 1, 0),
        Asked("release move", items=3),
        Asked(f"release move {FIRST}", 1, 1),
        Asked("release purge", items=0),
        Asked(f"release restore {FIRST}", 1, 1),
        Asked("release list", items=0),
        Asked("partitions archive --before 2020-01-01", items=0),
        Asked("participants backfill"),
        Asked("participants audit", 1, 1),
        Asked("participants list", items=2),
        Asked(f"participants merge {ARYA} {ARIA} --commit --yes", items=1),
        Asked(f"participants unmerge {ARYA} --commit --yes", items=1),
        Asked(f"participants rename {ARIA}", items=1, arguments=["Aria Lin-Ek", "--commit", "--yes"]),
        Asked(f"participants history {ARIA}", items=1),
        Asked("durations fix", items=0),
        Asked("catalog fold --all"),
        Asked("catalog compact"),
        Asked("catalog upgrade --yes", items=3),
        Asked(f"catalog export {out / 'tables'}", items=4),
        Asked(f"catalog import {out / 'tables'}"),
        Asked(f"catalog rebuild --to {FRESH} --yes"),
        Asked(f"catalog diff {FRESH}", None),
        Asked(f"catalog cutover {FRESH} --reason test --yes", items=0),
        Asked("catalog rollback --reason test --yes", items=0),
    ]


def test_every_command_answers_in_the_one_form_and_tells_no_name(ask: Ask, lab: Lab, tmp_path: Path):
    write_recording(lab.nas, FIRST, {"mic/seg_0000.wav": b"first"}, participant="Aria Lin")
    write_recording(lab.nas, SECOND, {"mic/seg_0000.wav": b"second"}, participant="Arya Lin")
    write_recording(lab.nas, BAD, {"mic/seg_0000.wav": b"third"}, manifest={"recording_id": FIRST})
    told = set()
    wrong = []

    for one in asked(lab.nas, tmp_path):
        answer = ask(*one.line.split(), *one.arguments, code=None).document
        name = answer["command"].removeprefix("ursa ")
        told.add(name)
        is_as_told = one.code in (None, answer["exit_code"]) and one.items in (None, len(answer["items"]))
        is_fine = answer["profile"] == "lab" and answer["error"] is None and one.line.startswith(name)
        if not (is_as_told and is_fine) or "Lin" in json.dumps(answer) or has_other_form(answer):
            wrong.append((one, answer))

    assert wrong == []
    assert told == set(commands(with_json=True))


def test_the_table_of_verbs_is_complete():
    told = re.findall(r"^\| `ursa ((?:[a-z]+ ?)+)", (DOCS / "command.md").read_text(), re.MULTILINE)

    assert sorted(map(str.strip, told)) == sorted(commands(with_json=False))


def test_an_error_is_told_in_the_same_form(ask: Ask, tmp_path: Path):
    refused = ask("query", "--profile", "elsewhere", code=3, config=False)
    missing = ask("report", "--out", tmp_path / "nowhere" / "report.html", code=1)

    assert refused.error["type"] == "ProfileInvalid"
    assert refused.error["message"] == refused.errors.strip()
    assert refused.error["problem"] in refused.errors and refused.error["remedy"] in refused.errors
    assert (refused.document["command"], refused.document["profile"]) == ("ursa query", None)
    assert (missing.error["type"], missing.document["profile"]) == ("FileNotFoundError", "lab")
    assert str(tmp_path / "nowhere") in missing.error["place"]


@pytest.mark.parametrize(
    ("arguments", "command", "told"),
    [
        (["query", "--frobnicate"], "ursa query", "--frobnicate"),
        (["catalog", "frobnicate"], "ursa catalog", "frobnicate"),
        (["catalog", "init"], "ursa catalog init", "--yes"),
        (["bandwidth", "5MB"], "ursa bandwidth", "5MB"),
    ],
)
def test_wrong_usage_is_told_in_the_same_form(arguments: list[str], command: str, told: str, ask: Ask):
    answer = ask(*arguments, code=2)

    assert (answer.document["command"], answer.error["type"]) == (command, "UsageError")
    assert told in answer.error["problem"]
    assert told in answer.errors


def test_a_no_is_told_in_the_same_form(ask: Ask, lab: Lab):
    before = lab.everything()

    assert ask("catalog", "init", typed=terminal("n"), code=3).error["type"] == "NotConfirmed"
    assert ask("catalog", "init", typed=terminal("\x04"), code=3).error["type"] == "NotConfirmed"
    assert lab.everything() == before


@pytest.mark.parametrize(
    ("interrupt", "message"),
    [
        (KeyboardInterrupt(), "Interrupted. Run it again to go on; what is stored is not sent again."),
        (KeyboardInterrupt("Look at it."), "Interrupted. Look at it."),
        (Interrupted("1 done"), "Interrupted. 1 done. Run it again to go on; what is stored is not sent again."),
    ],
)
def test_an_interrupt_is_told_in_the_same_form(
    interrupt: BaseException, message: str, ask: Ask, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(_: object) -> None:
        note_summary(launched=7)
        raise interrupt

    monkeypatch.setattr("ursa_pipelines.maintenance.participants.read_people", interrupted)

    answer = ask("participants", "list", code=130)

    assert (answer.error["type"], answer.error["message"], answer.errors.strip()) == ("Interrupted", message, message)
    assert answer.document["summary"] == {"launched": 7}


def test_a_question_answered_with_an_interrupt_is_an_interrupt(ask: Ask, lab: Lab):
    before = lab.everything()

    assert ask("catalog", "init", typed=CtrlC(), code=130).error["type"] == "Interrupted"
    assert lab.everything() == before


def test_what_nobody_foresaw_is_told_without_its_text(
    lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def fails(_: object) -> None:
        raise RuntimeError("Aria Lin")

    monkeypatch.setattr("ursa_pipelines.maintenance.participants.read_people", fails)
    monkeypatch.setattr(sys, "argv", ["ursa", "participants", "list", "--json", "--config", str(lab.config)])
    with pytest.raises(RuntimeError):
        main()

    out = capsys.readouterr().out
    assert json.loads(out)["error"]["type"] == "RuntimeError"
    assert "Aria" not in out


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt(), 130), (OSError(5, "Input/output error"), 1)])
def test_a_document_that_was_begun_is_closed_with_the_error_and_is_the_only_one(
    raised: BaseException, code: int, ask: Ask, monkeypatch: pytest.MonkeyPatch
):
    class Broken(dict[str, Any]):
        def items(self) -> Any:
            raise raised

    class Item:
        def model_dump(self, **_: object) -> dict[str, Any]:
            return next(items)

    items = iter([{"number": 1}, Broken(), {"number": 3}])
    monkeypatch.setattr(
        "ursa_pipelines.maintenance.participants_edits.history", lambda *_: (ARIA, [Item(), Item(), Item()])
    )

    answer = ask("participants", "history", ARIA, code=code)

    assert answer.document["items"] == [{"number": 1}]
    assert answer.error["message"] in answer.errors


def test_values_have_one_form(capsys: pytest.CaptureFixture[str]):
    class State(StrEnum):
        DONE = "done"

    @dataclass
    class Nested:
        shown: int
        name: str = field(repr=False)

    local = datetime(2026, 5, 20, 21, 56, 28, tzinfo=timezone(timedelta(hours=2)))
    item = {
        "utc": datetime(2026, 5, 20, 19, 56, 28, 500, tzinfo=UTC),
        "local": local,
        "day": local.date(),
        "duration": timedelta(minutes=1, milliseconds=500),
        "path": Path("/data/caf\udce9\u202e"),
        "states": {State.DONE},
        "numbers": (1, 0.5, float("nan"), float("inf"), True, None),
        "nested": Nested(1, "Aria"),
    }

    print_answer([item], summary={State.DONE: 2**53})

    out = capsys.readouterr().out
    assert out.isascii()
    document = json.loads(out)
    assert document["items"] == [
        {
            "utc": "2026-05-20T19:56:28.000500Z",
            "local": "2026-05-20T19:56:28Z",
            "day": "2026-05-20",
            "duration": 60.5,
            "path": "/data/caf\udce9\u202e",
            "states": ["done"],
            "numbers": [1, 0.5, None, None, True, None],
            "nested": {"shown": 1},
        }
    ]
    assert document["summary"] == {"done": 2**53}
    with pytest.raises(TypeError, match="object"):
        print_answer([{"what": object()}])
