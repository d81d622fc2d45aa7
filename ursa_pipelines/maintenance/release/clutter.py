"""What operating systems put into a directory on their own: no ingest takes it, so the bucket has none of it.

It keeps nothing from leaving, as long as it can be nothing else: a few small files by the names that
`recordings/layout.py` knows, and `@eaDir` with nothing but such files in it. A certificate lists what there was. A
purge goes by the same rule and not by that list: a Finder that shows the trash writes its `.DS_Store` anew, and adds
more.
"""

from __future__ import annotations

from ursa_pipelines.errors import ReleaseRefused
from ursa_pipelines.maintenance.release.tree import Tree
from ursa_pipelines.recordings.layout import is_clutter, is_clutter_directory, shown

FILES_LIMIT = 64
BYTES_LIMIT = 1024 * 1024
"""Of one file."""

_DIRECTORY = "@eaDir"


def clutter_of(tree: Tree) -> Tree:
    """The clutter of a tree, files and directories. Raises `ReleaseRefused` for what has its name and is more."""
    found: Tree = {}
    for path, stamp in tree.items():
        *above, name = path.split("/")
        if stamp.is_directory:
            if not any(map(is_clutter_directory, (*above, name))):
                continue
            problem = "" if name == _DIRECTORY and not any(map(is_clutter_directory, above)) else "a directory"
        elif not is_clutter(path):
            continue
        elif not stamp.is_file or stamp.links != 1:
            problem = "a second name of a file" if stamp.is_file else "no regular file"
        else:
            problem = f"{stamp.size:,} bytes" if stamp.size > BYTES_LIMIT else ""
        if problem:
            raise _too_much(f"it has the name of clutter, and is {problem}", path)
        found[path] = stamp
    if len(found) > FILES_LIMIT:
        raise _too_much(
            f"{len(found):,} files are no part of it; at most {FILES_LIMIT} are taken for clutter", min(found)
        )
    return found


def _too_much(problem: str, path: str) -> ReleaseRefused:
    return ReleaseRefused(
        problem, place=shown(path), remedy="Remove it if nobody needs it: only what the bucket has may go."
    )
