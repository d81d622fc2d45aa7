"""No module but one can change a source: each that changes files at all is listed here, with what it changes.

What the package does to a source while it runs is watched in `tests/faults/source_writes.py`; this reads its text. A
module that begins to write files fails here until somebody says what they are.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import ursa_pipelines

PACKAGE = Path(ursa_pipelines.__file__).parent
RELEASE = "maintenance/release/tree.py"
WRITERS = {
    RELEASE: "a source: into its trash, out of it, and away",
    "catalog/tables/spool.py": "rows that do not fit into memory, in a temporary directory",
    "cli/printing.py": "/dev/null",
    "embedded/demo_recordings.py": "recordings of the demo, new ones only",
    "embedded/keeper.py": "the state of the embedded store",
    "embedded/server.py": "the state of the embedded store",
    "embedded/sources.py": "the directories that stand for sources on `local`, if there are none",
    "embedded/store.py": "the state of the embedded store",
    "ingest/plan_file.py": "the file that `ursa plan --out` names",
    "maintenance/export.py": "the directory that an export goes to",
    "maintenance/importing/plan.py": "rows that do not fit into memory, in a temporary directory",
    "maintenance/report_page.py": "the file that `ursa report --out` names",
    "objects/destination.py": "the directory that a download goes to",
    "objects/digests.py": "digests of files, in the state directory",
    "objects/line.py": "the line that uploads share, in the state directory",
    "objects/part_files.py": "files that are downloaded",
    "orchestration/instance.py": "a Dagster instance's own directory",
    "orchestration/resources.py": "a Dagster instance's own directory",
    "profiles/timetable.py": "the cap on uploads, in the state directory",
}

_OF_OS = frozenset(
    [
        "chmod",
        "chown",
        "ftruncate",
        "link",
        "makedirs",
        "mkdir",
        "mkfifo",
        "mknod",
        "pwrite",
        "remove",
        "removedirs",
        "rename",
        "renames",
        "replace",
        "rmdir",
        "setxattr",
        "symlink",
        "truncate",
        "unlink",
        "utime",
    ]
)
_OF_PATHS = frozenset(
    ["chmod", "hardlink_to", "mkdir", "rmdir", "symlink_to", "touch", "unlink", "write_bytes", "write_text"]
)
_OF_SHUTIL = frozenset(["chown", "copy", "copy2", "copyfile", "copytree", "move", "rmtree", "unpack_archive"])
_FLAGS = frozenset({"O_APPEND", "O_CREAT", "O_RDWR", "O_TRUNC", "O_WRONLY"})


@cache
def parsed(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def changes(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Every call that could change a file, as far as its text tells."""
    for node in nodes:
        if isinstance(node, ast.Call) and _changes(node):
            yield f"{node.lineno}: {ast.unparse(node)[:60]}"


def _changes(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Name):
        return call.func.id == "open" and _is_for_writing(call, 1)
    if not isinstance(call.func, ast.Attribute):
        return False
    name, of = call.func.attr, call.func.value
    module = of.id if isinstance(of, ast.Name) else ""
    if module == "shutil":
        return name in _OF_SHUTIL
    if module == "os":
        values = [*call.args, *(one.value for one in call.keywords)]
        flags = {one.attr for value in values for one in ast.walk(value) if isinstance(one, ast.Attribute)}
        return name in _OF_OS or (name == "open" and bool(flags & _FLAGS)) or _is_for_writing(call, 1)
    if name in {"rename", "replace"}:
        # A path's takes one path; a text's two texts, a bucket's a body, a row's fields by name.
        return len(call.args) == 1 and not call.keywords and not isinstance(call.args[0], ast.Dict | ast.DictComp)
    return name in _OF_PATHS or (name == "open" and _is_for_writing(call, 0))


def _is_for_writing(call: ast.Call, position: int) -> bool:
    told = [one.value for one in call.keywords if one.arg == "mode"] + call.args[position : position + 1]
    modes = [one.value for one in told if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return any(set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes)


def test_only_the_release_can_change_a_source():
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if told := list(changes(parsed(path))):
            found[path.relative_to(PACKAGE).as_posix()] = told

    assert found.keys() - WRITERS.keys() == set(), {name: found[name] for name in found.keys() - WRITERS.keys()}
    assert WRITERS.keys() - found.keys() == set(), "these change nothing any more"
    # What looks at sources changes nothing anywhere.
    assert not [name for name in found if name.startswith(("recordings/", "orchestration/sensors/"))]


def test_the_calls_that_change_a_source_are_asked_for_by_the_release_alone():
    asking = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in parsed(path)
        if isinstance(node, ast.ImportFrom) and node.module == "ursa_pipelines.maintenance.release.tree"
        if {one.name for one in node.names} & {"rename", "unlink", "remove_empty"}
    }

    assert asking == {"maintenance/release/moving.py", "maintenance/release/purging.py"}


@pytest.mark.parametrize(
    "call",
    [
        "os.rename('a', 'b')",
        "os.unlink('a', dir_fd=3)",
        "os.open('a', os.O_RDWR | os.O_CLOEXEC)",
        "os.fdopen(3, 'wb')",
        "path.unlink()",
        "(root / 'a').rename(target)",
        "Path(a).replace(b)",
        "path.open('ab')",
        "open('a', mode='x')",
        "shutil.rmtree(a)",
        "path.write_text('a')",
    ],
)
def test_a_call_that_changes_files_is_seen(call: str):
    assert list(changes(ast.walk(ast.parse(call))))


@pytest.mark.parametrize(
    "call",
    [
        "text.replace('a', 'b')",
        "moment.replace(tzinfo=UTC)",
        "bucket.replace(key, body, etag)",
        "frame.rename({'a': 'b'})",
        "replace(one, state='a')",
        "os.open('a', os.O_RDONLY)",
        "os.fdopen(3, 'rb')",
        "path.open('rb')",
        "open('a')",
    ],
)
def test_a_call_that_changes_no_file_is_not(call: str):
    assert not list(changes(ast.walk(ast.parse(call))))
