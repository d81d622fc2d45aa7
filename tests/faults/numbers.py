"""The list of faults by its numbers: what happens, what must come of it, and the tests that are named after each."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

from tests.recordings.test_hostile_manifests import HOSTILE, ODD

TESTS = Path(__file__).parents[1]
_NAMED = re.compile(r"(?:test_)?fault_([0-9]+b?(?:_and_[0-9]+b?)*)_")

# One line each, in the order of the list.
# fmt: off
NUMBERS: dict[str, tuple[str, str]] = {
    # Crash and orchestration
    "1": ("a process is killed, at any step", "a rerun comes to the same end; no row without its bytes"),
    "2": ("it is killed after an effect, before the answer", "the rerun knows its own work; nothing is there twice"),
    "3": ("a whole run is killed", "the next run takes over; a lost run is found"),
    "4": ("a sensor dies between a report and its cursor", "one ingest comes of it"),
    "5": ("a recording arrives again", "it is taken again, not held back as known"),
    "6": ("a run is cancelled, or told to end", "it stops between parts, and can be resumed"),
    "7": ("a failed ingest is tried again", "it resumes, and writes over nothing unless that is asked for"),
    "8": ("one recording of a backfill is bad", "the others come to their end; the run is not green"),
    "8b": ("a process is suspended for long, and wakes", "it adds nothing to what another did meanwhile"),
    # The source's file system
    "9": ("a drive fails while it is read", "an error that passes; nothing is registered"),
    "10": ("a drive is gone and leaves an empty directory", "an error, and not 0 recordings"),
    "11": ("a read hangs", "it is given up in time"),
    "12": ("a file grows while it is read", "it waits; what was sent is not registered"),
    "13": ("a file shrinks while it is read", "an error that says so, at once"),
    "14": ("a file is edited between hash and upload", "what is sent is what was hashed, or nothing"),
    "15": ("a bit flips, somewhere", "what reads it next notices"),
    "16": ("a misread is given as success", "the store's checksum, or a second read, finds it"),
    "17": ("a link, to a file, a directory, outside, in a loop", "refused, never followed"),
    "18": ("a pipe, socket or device", "refused, never opened"),
    "19": ("a file is exchanged after it was listed", "noticed before it is read"),
    "20": ("a hard link to a file outside", "taken for the file it is, and told"),
    "21": ("clutter of file managers", "ignored and counted; refused in a manifest"),
    "22": ("an empty file", "hashed, sent and registered as any other"),
    "23": ("a sparse file of a terabyte", "bounded memory"),
    "24": ("100,000 files, and deep trees", "bounded memory, no recursion"),
    "25": ("a file of more than 10,000 parts", "part sizes are chosen for it; all but the last are equal"),
    "26": ("a file that cannot be read", "the whole recording is refused, and the file named"),
    "27": ("a file that nobody listed, or that is nowhere", "kept and marked; refused"),
    "28": ("a disk is full", "a clean error; what is kept is whole"),
    "29": ("anything at all", "nothing is written to a source; a read-only one will do"),
    # Manifest and identity
    "30": ("a manifest cut short, empty, in UTF-16, not UTF-8", "refused by name"),
    "31": ("an absolute path", "refused"),
    "32": ("a path with `..`, `.`, `//` or a slash at its end", "refused, never repaired"),
    "33": ("a path with a backslash or a drive letter", "refused"),
    "34": ("a NUL, half a surrogate pair", "refused by name"),
    "35": ("two spellings of one name (NFC, NFD)", "refused"),
    "36": ("names that differ in case alone", "refused"),
    "37": ("control, bidi or invisible characters in a path", "refused"),
    "38": ("a key of more than 1,024 bytes", "refused before anything is sent"),
    "39": ("a JSON key twice", "refused"),
    "40": ("`NaN`, infinity, `true` for a number, negative sizes", "refused"),
    "41": ("JSON a mile deep; damage of every kind", "refused by name, in bounded memory"),
    "42": ("a digest in capitals, or too short", "refused"),
    "43": ("a manifest without files", "counts as none; never a row"),
    "44": ("names swapped, a directory copied", "found"),
    "45": ("one id, two contents", "a conflict; both are kept"),
    "46": ("one content, two ids", "one row"),
    "47": ("the second half of a recording", "keeps the identity that the first has made"),
    "48": ("a manifest and a node's disagree", "refused"),
    "49": ("a manifest of another recording", "refused"),
    "50": ("an id that only looks like one", "refused"),
    "51": ("reconstructing over a valid manifest", "nothing is done"),
    "51b": ("only sizes were compared", "the row says so"),
    # The store
    "52": ("503, 429, 500", "asked again, within limits, and counted"),
    "53": ("the connection breaks in a body", "the part is sent again; the digest is right"),
    "54": ("an answer or a list is cut short", "an error, never a short list"),
    "55": ("the answer to a conditional write is lost", "our own write is no conflict"),
    "56": ("the answer to the end of a multipart upload is lost", "recognised as done"),
    "57": ("200 with an error in it", "a failure"),
    "58": ("credentials expire", "fetched once more; else it stops and can be resumed"),
    "59": ("a clock is wrong", "an error that names it; no order rests on clocks"),
    "60": ("an upload is left over", "resumed or aborted; others' are left alone"),
    "61": ("other bytes of the same size are there", "a conflict; nothing is skipped by size"),
    "62": ("headers that R2 refuses", "no request has them"),
    "63": ("one key is written too often", "batches; asked again later"),
    "64": ("a list repeats or skips", "neither twice nor lost"),
    "65": ("an object vanishes before its row is written", "found, and told"),
    # The catalog
    "66": ("the pointer is missing, damaged, another bucket's", "it stops; no prefix is guessed"),
    "67": ("the pointer moves during a run", "what was acknowledged is in the new catalog"),
    "68": ("many ingest the same at once", "one set of rows; who comes second agrees"),
    "69": ("it is not known whether a commit came about", "read back; nothing is deleted"),
    "70": ("a recording without its modalities", "never seen by anybody"),
    "71": ("a catalog of an unknown version", "nothing is written"),
    "72": ("merges meet", "nothing is lost, in any order"),
    # Security
    "73": ("what the UI is served of a resource", "no secret is in it"),
    "74": ("what Dagster stores", "no secret and no name is in it"),
    "75": ("reprs and logs, at DEBUG too", "no secret is in them"),
    "76": ("a key with a line break in it", "refused, and not repeated"),
    "77": ("signed URLs", "there are none"),
    "78": ("environments, command lines, core dumps, pickles", "no secret is in them"),
    "79": ("a webserver without a login", "listens on this machine only"),
    "80": ("a participant's name that is code, or 10 MB", "data and nothing else; bounded"),
    "81": ("participants' names in ids, logs, errors", "there are none"),
    "82": ("a write without the role for it", "refused by the credential, not by a flag"),
    "83": ("a test's profile on a production bucket, or the reverse", "refused before the first write"),
    "84": ("`op` missing, locked, hanging, another's", "an error that says which, in time"),
    "85": ("deleting or overwriting raw objects", "no code does"),
    "86": ("\"may the drive be wiped?\"", "only after the bytes were read back"),
    "87": ("what ops hand on is pickled to disk", "no secret, no name; for its owner alone"),
}
# fmt: on


def tests_by_number() -> dict[str, dict[str, int]]:
    """For each number the files with tests that are named after it, and how many there are in each.

    The many hostile manifests are cases of one test, each with its number in its name. A number that is not of the
    list is here as well.
    """
    named: dict[str, Counter[str]] = {number: Counter() for number in NUMBERS}
    for path in sorted(TESTS.rglob("test_*.py")):
        file = path.relative_to(TESTS.parent).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                _count(named, node.name, file)
    for case in (*HOSTILE, *ODD):
        _count(named, case.name, "tests/recordings/test_hostile_manifests.py")
    return {number: dict(files) for number, files in named.items()}


def _count(named: dict[str, Counter[str]], name: str, file: str) -> None:
    if match := _NAMED.match(name):
        for number in match[1].split("_and_"):
            named.setdefault(number, Counter())[file] += 1
