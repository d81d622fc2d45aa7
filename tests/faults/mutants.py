"""Builds of the package that are broken on purpose, and what of the suite has to catch each of them.

A mutant is a small change of a copy of the package. It must apply exactly: a text that is not there any more, or is
there twice, is an error, so that whoever changes the package keeps its mutants up to date.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "ursa_pipelines"

_RUN_SECONDS = 300
_NOT_FOR_A_MUTANT = ("URSA_FAULTS", "URSA_FAULT_FIGURES", "PYTEST_ADDOPTS")
_TOLD = re.compile(r"^(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) (tests/.*?)(?: - .*)?$", re.MULTILINE)
# A mutant that cannot even run proves nothing about who would notice it.
_DOES_NOT_RUN = re.compile(
    r"^E +((?:Name|Attribute|Import|ModuleNotFound|Syntax|Indentation|UnboundLocal|Type)Error\b.*)$", re.MULTILINE
)


@dataclass(frozen=True)
class Edit:
    """`old` stands exactly once in the file of the package; `new` comes in its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """`tests` are the smallest that must catch it: each of them fails."""

    name: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Outcomes:
    """What each test came to that was run, by its id, and all that pytest said."""

    by_test: dict[str, set[str]]
    output: str

    def of(self, test: str) -> set[str]:
        return self.by_test.get(test, set())

    @property
    def does_not_run(self) -> list[str]:
        return _DOES_NOT_RUN.findall(self.output)


def copy_package(place: Path) -> None:
    """Puts a copy of the package into a directory."""
    # With their times, so that what is compiled beside them is still good.
    shutil.copytree(ROOT / PACKAGE, place / PACKAGE, copy_function=shutil.copy2)


def apply(mutant: Mutant, place: Path) -> None:
    """Changes the copy below `place`. Raises `AssertionError` where it does not apply."""
    for edit in mutant.edits:
        path = place / PACKAGE / edit.file
        text = path.read_text(encoding="utf-8")
        found = text.count(edit.old)
        assert found == 1, f"{mutant.name}: {edit.file} has {found} times, not once:\n{edit.old}"
        changed = text.replace(edit.old, edit.new)
        compile(changed, str(path), "exec")
        path.write_text(changed, encoding="utf-8")


def run_tests(place: Path, tests: Collection[str], state: Path, *, name: str) -> Outcomes:
    """Runs tests of the suite on the copy below `place`, with the object store of `state`, which must be running."""
    environment = {key: value for key, value in os.environ.items() if key not in _NOT_FOR_A_MUTANT}
    environment["PYTHONPATH"] = os.pathsep.join((str(place), str(ROOT)))
    # As a further worker of this run, which shares the store that lies beside its own directory.
    environment.setdefault("PYTEST_XDIST_WORKER", "gw0")
    left_out = ("cacheprovider", "hypothesispytest", "anyio", "benchmark")
    command = [
        *(sys.executable, "-m", "pytest", "-q", "--tb=short", "-rpfEsxX", "--import-mode=importlib"),
        *(option for plugin in left_out for option in ("-p", f"no:{plugin}")),
        *("-n", "0", "-o", "addopts=", "-o", f"pythonpath={shlex.quote(str(place))}"),
        f"--basetemp={state.parent / f'mutant-{name}'}",
        *tests,
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_RUN_SECONDS)
    by_test: dict[str, set[str]] = {}
    for outcome, test in _TOLD.findall(done.stdout):
        by_test.setdefault(test, set()).add(outcome)
    return Outcomes(by_test, done.stdout + done.stderr)


REFUSALS, OLD_FILES = "tests/ingest/test_refusals.py", "tests/ingest/test_already_there.py"
UPLOAD, STORE = "tests/objects/test_upload.py", "tests/objects/test_store.py"
ORDER = "tests/faults/test_write_order.py::test_each_write_of_an_ingest_comes_after_what_it_speaks_of"

MUTANTS = (
    Mutant(
        "rows before bytes",
        (
            Edit(
                "ingest/pipeline.py",
                "    uploaded = upload(context, recording, watch)\n",
                "    from ursa_pipelines.ingest.upload import Uploaded\n\n"
                "    every = tuple(recording.merged.files)\n"
                '    register(context, Uploaded(recording, 0, 0, 0, every, "sha256"), overwrite=overwrite)\n'
                "    uploaded = upload(context, recording, watch)\n",
            ),
        ),
        (f"{REFUSALS}::test_fault_12_a_file_that_grows_while_it_is_sent_is_not_registered",),
    ),
    Mutant(
        "what has the right size is taken for the right bytes",
        (
            Edit(
                "objects/proof.py",
                "    if marker is not None and marker.proves(path, info, sha256):\n",
                "    if info.size == size:\n",
            ),
        ),
        (f"{OLD_FILES}::test_fault_61_an_object_of_the_same_size_with_other_bytes_is_a_conflict[attested]",),
    ),
    Mutant(
        "a small raw object is put over what is there",
        (Edit("objects/store.py", 'mode="create", attributes', 'mode="overwrite", attributes'),),
        (
            f"{STORE}::test_create_refuses_a_key_that_is_taken_and_keeps_what_stands_there",
            f"{UPLOAD}::test_a_key_that_is_taken_keeps_its_object[single]",
        ),
    ),
    Mutant(
        "a raw object sent in chunks is put over what is there",
        (Edit("objects/upload.py", '                "if-none-match": "*",\n', ""),),
        (ORDER,),
    ),
    Mutant(
        "a raw object in parts is completed over what is there",
        (Edit("objects/parts.py", '                IfNoneMatch="*",\n', ""),),
        (f"{UPLOAD}::test_a_key_that_is_taken_keeps_its_object[multipart]",),
    ),
    Mutant(
        "a manifest is written over another",
        (
            Edit(
                "ingest/upload.py",
                "            context.raw.create(key, raw, sha256=hashlib.sha256(raw).hexdigest())\n",
                "            there = context.raw.head(key)\n"
                "            if there is None:\n"
                "                context.raw.create(key, raw, sha256=hashlib.sha256(raw).hexdigest())\n"
                "            else:\n"
                "                context.raw.replace(key, raw, there.etag)\n",
            ),
        ),
        ("tests/ingest/test_two_halves.py::test_either_half_may_come_first[host first-own_manifests]",),
    ),
    Mutant(
        "the digest is not looked at while a file is sent",
        (Edit("objects/upload.py", "    if sha256 != outgoing.sha256:\n", "    if not sha256:\n"),),
        (f"{UPLOAD}::test_a_file_that_is_not_what_is_attested_leaves_nothing[single]",),
    ),
    Mutant(
        "a part is taken for stored that the store did not confirm",
        (
            Edit(
                "objects/parts.py",
                "        if answer.get(_CRC64NVME_HEADER) != encoded and etag != _md5_etag(content):\n",
                "        if not etag:\n",
            ),
        ),
        (
            "tests/objects/test_checksums.py"
            "::test_fault_16_damage_is_found_by_the_md5_where_the_store_takes_no_checksum",
        ),
    ),
    Mutant(
        "a part of an earlier try is kept whatever it holds",
        (Edit("objects/parts.py", " or stored.etag != _md5_etag(content):\n", ":\n"),),
        ("tests/objects/test_resume.py::test_a_stored_part_of_other_bytes_is_sent_again",),
    ),
    Mutant(
        "a file that changed under our hands is sent on",
        (
            Edit(
                "recordings/inventory.py",
                "    if not stat.S_ISREG(status.st_mode) or not file.is_same_file(status):\n",
                "    if not stat.S_ISREG(status.st_mode):\n",
            ),
        ),
        (f"{UPLOAD}::test_a_file_that_changes_before_it_is_read_is_not_made_visible[single-_rewrite]",),
    ),
    Mutant(
        "the marker comes before the manifest",
        (
            Edit(
                "ingest/upload.py",
                "    stored_as = {_store_manifest(",
                "    if not discovery.absent:\n"
                "        _mark_complete(context, recording, placed)\n"
                "    stored_as = {_store_manifest(",
            ),
        ),
        (ORDER,),
    ),
    Mutant(
        "a marker forgets what it held",
        (Edit("objects/stored.py", "    merged = {**files, **known}\n", "    merged = files\n"),),
        ("tests/objects/test_marker.py::test_the_marker_only_gains_files",),
    ),
    Mutant(
        "an entry is written without looking at its version",
        (
            Edit(
                "catalog/writing.py",
                "                self._assets.create(key, body, sha256=digest)\n"
                "            else:\n"
                "                self._assets.replace(key, body, etag, sha256=digest)\n",
                "                self._assets.create(key, body, sha256=digest)\n"
                "            else:\n"
                '                __import__("obstore").put(self._assets._store, key, body)\n',
            ),
        ),
        ("tests/faults/test_catalog_faults.py::test_fault_72_merges_that_meet_lose_nothing_in_any_order",),
    ),
    Mutant(
        "a claim is nobody's",
        (
            Edit(
                "catalog/claims.py",
                '    return document.get("recording_hash") or recording_hash, document.get("txn") == txn\n',
                '    return recording_hash, document.get("txn") == txn\n',
            ),
        ),
        ("tests/catalog/test_entries.py::test_a_stated_hash_that_differs_from_the_owner_is_a_conflict_with_a_remedy",),
    ),
    Mutant(
        "a rerun makes a second row",
        (
            Edit("recordings/identity.py", '"\\n".join(sorted(digests)).encode()', '__import__("os").urandom(32)'),
            Edit(
                "catalog/writing.py",
                'read_claim(self._assets, self.prefix, change.rec_id or "") if must_ask',
                "None if must_ask",
            ),
            Edit(
                "catalog/claims.py",
                '    return document.get("recording_hash") or recording_hash, document.get("txn") == txn\n',
                '    return recording_hash, document.get("txn") == txn\n',
            ),
        ),
        ("tests/ingest/test_path_a.py::test_ingesting_again_changes_nothing",),
    ),
    Mutant(
        "an entry is not marked in the tail",
        (
            Edit(
                "catalog/tail.py",
                '    return _create(assets, f"{prefix}/tail/{name}.{txn}',
                '    return str(f"{prefix}/tail/{name}.{txn}',
            ),
            Edit(
                "catalog/tail.py",
                'if attempt else \'\'}", b"")\n',
                "if attempt else ''}\")\n",
            ),
        ),
        ("tests/catalog/test_entries.py::test_a_registration_leaves_entry_claim_and_tail_marker_of_one_transaction",),
    ),
    Mutant(
        "a fold adds a row again that it should replace",
        (
            Edit("catalog/tables/fold.py", "            if changed or gone:\n", "            if gone:\n"),
            Edit(
                "catalog/tables/fold.py",
                "        new = [pair for pair in pairs if pair[0].recording.recording_hash not in held]\n",
                "        new = pairs\n",
            ),
        ),
        ("tests/catalog/tables/test_fold.py::test_later_folds_add_what_is_new_and_replace_what_has_changed",),
    ),
    Mutant(
        "HEAD is swapped whoever has stamped it since",
        (
            Edit(
                "catalog/tables/head.py",
                "                assets.replace(_key(prefix), new.model_dump_json().encode(), etag)\n",
                "                import obstore\n\n"
                "                obstore.put(assets._store, _key(prefix), new.model_dump_json().encode())\n",
            ),
        ),
        ("tests/catalog/tables/test_fold.py::test_what_comes_before_the_swap_keeps_the_fold_from_swapping[a stamp]",),
    ),
    Mutant(
        "HEAD is swapped whatever became of the tables",
        (Edit("catalog/tables/fold.py", "    if not all(as_seen) or not swap(", "    if not swap("),),
        ("tests/catalog/tables/test_fold.py::test_what_comes_before_the_swap_keeps_the_fold_from_swapping[a commit]",),
    ),
    Mutant(
        "a mark goes whether its write was folded or not",
        (
            Edit(
                "catalog/tables/fold.py",
                "    return all(mark.txn in txns.get(name, ()) for name in mark.names)\n",
                "    return True\n",
            ),
        ),
        ("tests/catalog/tables/test_fold.py::test_a_mark_of_a_write_that_is_not_there_yet_stays_for_a_day",),
    ),
    Mutant(
        "what is downloaded is not compared with its digest",
        (
            Edit(
                "objects/part_files.py",
                "    if size != wanted.size or (wanted.sha256 and digest != wanted.sha256):\n",
                "    if size != wanted.size:\n",
            ),
        ),
        ("tests/objects/test_download.py::test_corrupted_bytes_are_found_and_no_file_is_left",),
    ),
    Mutant(
        "what signs a request is logged",
        (
            Edit(
                "objects/wire.py",
                "        self._signer.add_auth(request)\n",
                "        self._signer.add_auth(request)\n"
                '        logger.warning("%s %s with %s", method, url, dict(request.headers.items()))\n',
            ),
        ),
        ("tests/faults/test_canaries.py::test_fault_75_what_signs_a_request_is_in_no_log_whatever_its_level",),
    ),
    Mutant(
        "the source directory is written to",
        (
            Edit(
                "ingest/pipeline.py",
                "    digests = hash_unattested(context, discovery, watch)\n",
                "    if discovery.inventory is not None:\n"
                '        (discovery.inventory.directory / ".ingested").touch()\n'
                "    digests = hash_unattested(context, discovery, watch)\n",
            ),
        ),
        ("tests/ingest/test_path_c.py::test_the_source_directory_is_never_written_to", ORDER),
    ),
    Mutant(
        "nobody asks a bucket who it is",
        (Edit("rooms.py", "        if found != expected:\n", "        if not expected:\n"),),
        (f"{REFUSALS}::test_fault_83_a_bucket_that_says_it_is_another_is_never_written_to[{{'purpose': 'assets'}}]",),
    ),
    Mutant(
        "anything can be removed",
        (Edit("objects/store.py", "        if not is_disposable(key):\n", "        if not key:\n"),),
        (f"{STORE}::test_fault_85_nothing_but_bookkeeping_can_be_removed[ursa/ACTIVE.json]",),
    ),
)
