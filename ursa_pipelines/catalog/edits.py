"""`<prefix>/participants/<participant_id>.json`: what people decided about a participant (DESIGN section 6).

Entries keep what was typed at the rig. An edit gives a participant another name, or tells that two spellings are one
person (`merged_into`); undoing it is an edit too, and the log keeps all of them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime

from pydantic import Field, ValidationError

from ursa_pipelines import failpoints
from ursa_pipelines.catalog.entries import ENTRY_VERSION, LogItem, Versioned, Writer, joined_logs, lineage
from ursa_pipelines.catalog.pointer import read_pointer, require_current_version
from ursa_pipelines.catalog.retrying import LOST_RACES, retrying
from ursa_pipelines.catalog.tail import mark
from ursa_pipelines.errors import CatalogConflict, CatalogError, CatalogVersionUnknown, ObjectNotFound
from ursa_pipelines.objects.store import Bucket

_READERS = 16


class EditItem(LogItem):
    """One edit in the history, with what was in force after it."""

    display_name: str | None = Field(default=None, repr=False)
    merged_into: str | None = None


class ParticipantEdit(Versioned):
    """The document. `display_name` and `merged_into` are None where nobody decided otherwise."""

    participant_id: str
    seq: int = 0
    display_name: str | None = Field(default=None, repr=False)
    merged_into: str | None = None
    log: list[EditItem] = Field(default_factory=list)


def edit_key(prefix: str, participant_id: str) -> str:
    return f"{prefix}/participants/{participant_id}.json"


def read_edit(assets: Bucket, prefix: str, participant_id: str) -> tuple[ParticipantEdit, str] | None:
    """(edit, ETag), or None if nobody edited this participant. Raises `CatalogError`, `CatalogVersionUnknown`."""
    key = edit_key(prefix, participant_id)
    try:
        raw, info = assets.get(key)
    except ObjectNotFound:
        return None
    place = f"{assets.name}/{key}"
    try:
        version = Versioned.model_validate_json(raw).version
        if version != ENTRY_VERSION:
            raise CatalogVersionUnknown(f"it has the unknown version {version}", place=place)
        return ParticipantEdit.model_validate_json(raw), info.etag
    except ValidationError as error:
        raise CatalogError(f"the edit is damaged: {error.errors()[0]['msg']}", place=place) from None


def read_edits(assets: Bucket, prefix: str) -> dict[str, ParticipantEdit]:
    """Every edit by its participant_id, read concurrently. Raises what `read_edit` raises."""
    keys = [info.key for info in assets.list_objects(f"{prefix}/participants/")]
    ids = [key.rpartition("/")[2].removesuffix(".json") for key in keys if key.endswith(".json")]
    with ThreadPoolExecutor(_READERS, thread_name_prefix="edits") as pool:
        found = pool.map(lambda one: read_edit(assets, prefix, one), ids)
        return {participant_id: one[0] for participant_id, one in zip(ids, found, strict=True) if one}


def write_edit(
    assets: Bucket,
    prefix: str,
    participant_id: str,
    change: Callable[[ParticipantEdit], ParticipantEdit],
    *,
    op: str,
    writer: Writer,
    follow_pointer: bool = False,
) -> ParticipantEdit:
    """Applies `change` to a participant's edit in one compare-and-swap; equal: nothing is written.

    With `follow_pointer` the pointer is read again after the write, and if it moved the edit goes to the new prefix
    too, with the history it has.
    """
    txn = secrets.token_hex(8)
    carried: ParticipantEdit | None = None
    if follow_pointer:
        pointer = read_pointer(assets)
        pending = {pointer.sweep.source} if pointer.sweep and not pointer.sweep.finished else set()
        for source in {prefix, *pending} - {pointer.prefix}:
            # What was decided elsewhere comes first; a conflict is the sweep's to tell.
            require_current_version(assets, pointer.prefix)
            with suppress(CatalogConflict):
                carry_edit(assets, source, pointer.prefix, participant_id, op="sweep", writer=writer)
        prefix = pointer.prefix
    while True:
        require_current_version(assets, prefix)
        edit = _write_under(assets, prefix, participant_id, change, carried, op=op, writer=writer, txn=txn)
        is_written = any(item.txn == txn for item in edit.log)
        live = read_pointer(assets).prefix if follow_pointer and is_written else prefix
        if live == prefix:
            return edit
        prefix, carried = live, edit


def carry_edit(assets: Bucket, source: str, target: str, participant_id: str, *, op: str, writer: Writer) -> bool:
    """Brings what people decided about a participant to another prefix, by its history; whether that was news there.

    Raises `CatalogConflict` if something else was decided there.
    """
    found = read_edit(assets, source, participant_id)
    if found is None:
        return False
    edit, came = found[0], lineage(found[0].log)

    def newer(current: ParticipantEdit) -> ParticipantEdit:
        here = lineage(current.log)
        if current.log and came <= here:
            return current
        if not here <= came and _decided(edit) != _decided(current):
            raise CatalogConflict(
                f"{participant_id} was edited both under {source} and under {target}",
                remedy="Repeat the edit that is right under both prefixes.",
            )
        log = joined_logs(current.log, edit.log)
        return edit.model_copy(update={"log": log, "seq": log[-1].seq if log else 0})

    txn = secrets.token_hex(8)
    written = _write_under(assets, target, participant_id, newer, None, op=op, writer=writer, txn=txn)
    return any(item.txn == txn for item in written.log)


def _write_under(
    assets: Bucket,
    prefix: str,
    participant_id: str,
    change: Callable[[ParticipantEdit], ParticipantEdit],
    carried: ParticipantEdit | None,
    *,
    op: str,
    writer: Writer,
    txn: str,
) -> ParticipantEdit:
    for attempt in retrying(*LOST_RACES):
        with attempt:
            found = read_edit(assets, prefix, participant_id)
            current = found[0] if found else ParticipantEdit(participant_id=participant_id)
            if any(item.txn == txn for item in current.log):
                return current
            if carried and {item.txn for item in current.log} < {item.txn for item in carried.log}:
                new = carried
            else:
                changed = change(current)
                if changed == current:
                    return current
                new = _with_item(current, changed, op, writer, txn)
            mark(assets, prefix, participant_id, txn)
            key, body = edit_key(prefix, participant_id), new.model_dump_json().encode()
            if found:
                assets.replace(key, body, found[1])
            else:
                assets.create(key, body)
            failpoints.reached("participants.edit_written")
            return new
    raise AssertionError("tenacity re-raises the last error")


def _with_item(
    current: ParticipantEdit, changed: ParticipantEdit, op: str, writer: Writer, txn: str
) -> ParticipantEdit:
    seq = max(current.seq, changed.seq) + 1
    item = EditItem(
        txn=txn,
        op=op,
        by=writer.by,
        run_id=writer.run_id,
        at=datetime.now(UTC),
        seq=seq,
        display_name=changed.display_name,
        merged_into=changed.merged_into,
    )
    return changed.model_copy(update={"seq": seq, "log": [*changed.log, item]})


def _decided(edit: ParticipantEdit) -> tuple[str | None, str | None]:
    return edit.display_name, edit.merged_into
