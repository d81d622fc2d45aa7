"""What `ursa download` brings: looked up first, then told recording by recording."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.filesize import decimal

if TYPE_CHECKING:
    from ursa_pipelines.catalog.results import QueryResult
    from ursa_pipelines.errors import UrsaError
    from ursa_pipelines.interface import DataInterface
    from ursa_pipelines.objects.destination import Layout, Planned, WantedFile
    from ursa_pipelines.objects.download import DownloadProgress

_OUTAGE = 3
_LINE_EVERY_SECONDS = 30.0


@dataclass
class Delivery:
    """What is brought, and what has become of each recording."""

    to: Path
    layout: Layout
    dry_run: bool
    is_quiet: bool
    wanted: dict[str, list[WantedFile]] = field(default_factory=dict)
    failed: dict[str, UrsaError] = field(default_factory=dict)
    ended_by: BaseException | None = None
    free: int = 0
    to_come: int = 0
    _hashes: dict[str, str] = field(default_factory=dict)
    _without_rec_id: set[str] = field(default_factory=set)
    _left: dict[str, int] = field(default_factory=dict)
    _outage: int = 0

    @property
    def files(self) -> list[WantedFile]:
        return [file for files in self.wanted.values() for file in files]

    def plan(self, data: DataInterface, results: list[QueryResult]) -> None:
        """Looks up the files of each recording, and says what they come to."""
        from ursa_pipelines.cli.printing import counted
        from ursa_pipelines.errors import UrsaError
        from ursa_pipelines.ingest.wanted import wanted_of_each
        from ursa_pipelines.objects.destination import free_bytes, lay_out, require_directory, still_to_come

        require_directory(self.to)
        planned: list[Planned] = []
        with counted("Looking up files") as tell:
            for number, (result, found) in enumerate(wanted_of_each(data.reading_context.raw, results), 1):
                tell(number, len(results))
                rec_id = result.recording.rec_id or result.recording_hash
                self._hashes[rec_id] = result.recording_hash
                if result.recording.rec_id is None:
                    self._without_rec_id.add(rec_id)
                try:
                    if isinstance(found, UrsaError):
                        raise found
                    planned += lay_out(found, self.to, self.layout)
                except UrsaError as error:
                    self.fail(rec_id, error)
                except ValueError as error:
                    raise typer.BadParameter(str(error)) from None
                else:
                    self.wanted[rec_id] = found
                    self._outage = 0 if found else self._outage
        self._left = {rec_id: len(files) for rec_id, files in self.wanted.items()}
        self.free, self.to_come = free_bytes(self.to), still_to_come(planned, self.to)
        if self.is_quiet or not self.wanted:
            return
        there = sum(file.size for file in self.files) - self.to_come
        self._say(
            f"{'Would bring' if self.dry_run else 'Bringing'} {self._told(self.wanted)} to {self.to} ({self.layout}); "
            f"{f'{decimal(there)} are there already; ' if there else ''}{decimal(self.free)} are free there."
        )
        if self.dry_run and self.to_come > self.free:
            self._say(f"That is {decimal(self.to_come - self.free)} more than is free: make room first.")

    def bring(self, data: DataInterface) -> None:
        """Downloads it; a recording that fails does not stop the others."""
        from ursa_pipelines.objects.download import download_files

        with _shown(sum(file.size for file in self.files), is_quiet=self.is_quiet) as on_bytes:
            download_files(
                data.reading_context.raw,
                lambda: self.files,
                self.to,
                layout=self.layout,
                progress=self._tell,
                workers=data.profile.settings.upload_workers,
                on_bytes=on_bytes,
                on_failed=self.fail,
            )

    def fail(self, rec_id: str, error: UrsaError) -> None:
        """Takes in why a recording cannot be brought. Raises it if the store seems to be gone altogether."""
        from ursa_pipelines.errors import StoreUnavailable

        self.failed[rec_id] = error
        self._outage = self._outage + 1 if isinstance(error, StoreUnavailable) else 0
        if self._outage >= _OUTAGE:
            raise error
        if not self.is_quiet:
            names_it = error.recording or rec_id in self._without_rec_id
            self._say(f"FAIL {error}" if names_it else f"FAIL {rec_id}: {error}")

    def items(self) -> Iterator[dict[str, Any]]:
        """One object for each recording, for `--json`."""
        from ursa_pipelines.objects.destination import target_of

        come_to = self._come_to
        told = [rec_id for rec_id in self.wanted if rec_id in come_to or rec_id in self.failed]
        for rec_id in dict.fromkeys([*told, *self.failed]):
            files, error = self.wanted.get(rec_id, []), self.failed.get(rec_id)
            yield {
                "rec_id": None if rec_id in self._without_rec_id else rec_id,
                "recording_hash": self._hashes.get(rec_id),
                "status": "FAIL" if error else "planned" if self.dry_run else "OK",
                "files": len(files),
                "bytes": sum(file.size for file in files),
                "files_unproved": len(_unproved(files)),
                "paths": [] if error else [target_of(file, self.to, self.layout) for file in files],
                "problem": error.problem if error else None,
                "place": error.place if error else None,
                "remedy": error.remedy if error else None,
                "error_type": type(error).__name__ if error else None,
            }
        if self.ended_by is not None:
            raise self.ended_by

    def summary(self) -> dict[str, Any]:
        """What it comes to altogether, for `--json`."""
        return {
            "recordings": len(self.wanted.keys() | self.failed.keys()),
            "failed": len(self.failed),
            "files": len(self.files),
            "bytes": sum(file.size for file in self.files),
            "bytes_to_fetch": self.to_come,
            "free_bytes": self.free,
            "to": self.to,
            "layout": self.layout,
            "dry_run": self.dry_run,
        }

    def show_end(self) -> None:
        """Says what has come, or with `--dry-run` what each recording comes to."""
        brought = self._come_to
        failed = f"{len(self.failed):,} failed, as told above. " if self.failed else ""
        if not self.wanted and not self.failed and self.ended_by is None:
            self._say("Nothing in the catalog matches; `ursa query` shows what there is.")
        elif self.dry_run:
            for rec_id, files in brought.items():
                self._say(f"{rec_id}: {_files(files)}")
            self._say(f"{failed}Nothing was fetched.")
        elif brought:
            unproved = len(_unproved([file for files in brought.values() for file in files]))
            self._say(f"{failed}{self._told(brought)} in {self.to}{', verified' if not unproved else ''}.")
            if unproved:
                self._say(
                    f"{unproved:,} of the files could not be verified: neither a manifest nor the bucket states what "
                    "their bytes must be."
                )
        elif failed:
            self._say(f"{failed}Nothing has come.")

    @property
    def _come_to(self) -> dict[str, list[WantedFile]]:
        """What was brought, or with `--dry-run` would be; if something ended it, what was whole by then."""
        done = self.wanted if self.ended_by is None else [one for one, left in self._left.items() if not left]
        return {rec_id: self.wanted[rec_id] for rec_id in done if rec_id not in self.failed}

    def _tell(self, event: DownloadProgress) -> None:
        if event.phase != "file_done" or event.rec_id is None:
            return
        self._outage = 0
        self._left[event.rec_id] -= 1
        if not self._left[event.rec_id] and not self.is_quiet:
            self._say(f"OK {event.rec_id}: {_files(self.wanted[event.rec_id])}")

    def _told(self, wanted: dict[str, list[WantedFile]]) -> str:
        noun = "recording" if len(wanted) == 1 else "recordings"
        return f"{len(wanted):,} {noun}, {_files([file for files in wanted.values() for file in files])}"

    @staticmethod
    def _say(text: str) -> None:
        from ursa_pipelines.cli.printing import line

        line(text)


@contextmanager
def _shown(total: int, *, is_quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar with rate and time left on a terminal; elsewhere a line now and then, unless it is to be quiet."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as Rate

    from ursa_pipelines.cli.printing import console

    # On the same console as the lines, so that the two do not write over one another.
    shown_on = Console(stderr=True) if is_quiet else console
    if not shown_on.is_terminal:
        yield _nothing if is_quiet else _line_now_and_then(total)
        return
    columns = (TaskProgressColumn(), BarColumn(), DownloadColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=shown_on, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


def _line_now_and_then(total: int) -> Callable[[int], None]:
    from ursa_pipelines.cli.printing import line

    begun = told = time.monotonic()

    def tell(done: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told < _LINE_EVERY_SECONDS:
            return
        told = now
        line(f"... {decimal(done)} of {decimal(total)}, {decimal(round(done / (now - begun)))}/s")

    return tell


def _nothing(done: int) -> None:
    """Nobody is shown how many bytes there are."""


def _unproved(files: Sequence[WantedFile]) -> list[WantedFile]:
    return [file for file in files if file.sha256 is None]


def _files(files: Sequence[WantedFile]) -> str:
    noun = "file" if len(files) == 1 else "files"
    return f"{len(files):,} {noun}, {decimal(sum(file.size for file in files))}"
