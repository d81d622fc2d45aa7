"""A plan in a file, to be looked at and then applied as it is, or not at all (`ursa plan --out`, `ursa apply`).

The file is untrusted: it only says which directories are meant and what was found there. All else is found again when
it is applied, and whatever differs from what it says is drift, for which nothing is written.
"""

from __future__ import annotations

import os
import shlex
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, TypeAdapter, ValidationError

from ursa_pipelines.errors import PlanDrifted, PlanInvalid
from ursa_pipelines.ingest.plan import IngestPlan
from ursa_pipelines.recordings.identity import is_rec_id
from ursa_pipelines.recordings.layout import hidden_in, shown

PLAN_BYTES_LIMIT = 128 * 1024**2
"""Twice what 100,000 recordings of two directories each take."""

_NUMBER_LIMIT = 2**63
_TOLD_AT_MOST = 5


class PlanFile(BaseModel):
    """The plans of one `ursa plan`, and what they hold for. `endpoint` is a digest of where the buckets are.

    `unavailable` are the sources that could not be read then, by name, and why: what lies there is not planned.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    format: Literal["ursa_plan/1"] = "ursa_plan/1"
    profile: str
    family: str
    buckets: dict[str, str]
    endpoint: str
    catalog_prefix: str
    made_at: AwareDatetime
    made_by: str
    overwrite: bool = False
    allow_partial: bool = False
    unavailable: dict[str, str] = {}
    recordings: list[IngestPlan]

    @property
    def to_ingest(self) -> list[IngestPlan]:
        """What applying it would ingest."""
        return [plan for plan in self.recordings if plan.action == "ingest"]

    @property
    def left_out(self) -> list[IngestPlan]:
        """What waited or was refused then, with the reason: applying the plan passes it by."""
        return [plan for plan in self.recordings if plan.action in {"waits", "refused"}]


@dataclass(frozen=True)
class Drift:
    """What is no longer as it was planned, in words. `rec_id` is "" where the profile or catalog itself differs."""

    rec_id: str
    what: Literal["source", "bucket", "catalog", "profile"]
    told: str

    def __str__(self) -> str:
        return f"{self.rec_id}: {self.what}: {self.told}" if self.rec_id else f"{self.what}: {self.told}"


def write_plan(plan: PlanFile, path: Path, *, sources: Iterable[Path] = ()) -> None:
    """Writes the file, in place of one that is there; never into a recording or one of the `sources`.

    Raises `PlanInvalid` for such a place and for a plan that could not be read again, `OSError`.
    """
    _require_writable(plan, path, sources)
    if path.exists() and not path.is_file():
        raise PlanInvalid("there is something that is no file", place=shown(str(path)), remedy="Write it elsewhere.")
    _require_sound(plan, path)
    body = _body(plan)
    if len(body) > PLAN_BYTES_LIMIT:
        raise PlanInvalid(
            f"{len(plan.recordings):,} recordings make a plan of {len(body):,} bytes, more than {PLAN_BYTES_LIMIT:,}",
            place=shown(str(path)),
            remedy="Plan fewer at once: name a part of them.",
        )
    descriptor, fresh = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
        Path(fresh).replace(path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise


def read_plan(path: Path) -> PlanFile:
    """The plan in a file. Raises `PlanInvalid` for what is none, in whatever way it is not."""
    place = shown(str(path))
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise PlanInvalid("it is no regular file", place=place)
            raw = file.read(PLAN_BYTES_LIMIT + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it has no name that a file can have"
        raise PlanInvalid(f"it cannot be read: {reason}", place=place) from None
    if len(raw) > PLAN_BYTES_LIMIT:
        raise PlanInvalid(f"it has more than {PLAN_BYTES_LIMIT:,} bytes", place=place)
    try:
        plan = PlanFile.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise PlanInvalid(first["msg"], place=f"{place}: {shown(field)}" if field else place) from None
    _require_sound(plan, path)
    return plan


def require_profile(before: PlanFile, profile: str) -> None:
    """Raises `PlanDrifted` if the plan is not for this profile: the operator says which it is, never the file."""
    if before.profile != profile:
        meant = shlex.quote(before.profile)
        raise PlanDrifted(
            f"the plan is for {before.profile}, this is {profile}",
            remedy=f"If {meant} is meant, say so: `--profile {meant}`, or `--config` with that profile's file. Else "
            "make a new plan with `ursa plan --out FILE`.",
        )


def require_same_place(before: PlanFile, now: PlanFile) -> None:
    """Raises `PlanDrifted` if the plan is for another profile, other buckets or another catalog."""
    require_no_drift(_drift_of_place(before, now))


def drift(before: PlanFile, now: PlanFile) -> list[Drift]:
    """What has changed since `before` was made for what it would ingest; `now` is the same planned again."""
    found = _drift_of_place(before, now)
    if any(one.what == "profile" for one in found):
        return found
    plans = {plan.rec_id: plan for plan in now.recordings}
    for plan in before.to_ingest:
        again = plans.get(plan.rec_id)
        found += _drift_of(plan, again) if again else [Drift(plan.rec_id, "source", "it was not planned again")]
    return found


def require_no_drift(found: Sequence[Drift]) -> None:
    """Raises `PlanDrifted`, which says what, if anything drifted."""
    if not found:
        return
    told = "; ".join(str(one).rstrip(".") for one in found[:_TOLD_AT_MOST])
    more = f"; and {len(found) - _TOLD_AT_MOST:,} more" if len(found) > _TOLD_AT_MOST else ""
    raise PlanDrifted(f"not as planned any more, so that nothing was done: {told}{more}")


def _drift_of_place(before: PlanFile, now: PlanFile) -> list[Drift]:
    found = []
    told = {
        "profile": f"the plan is for {before.profile}, this is {now.profile}",
        "family": f"the plan is for the family {before.family}, this is {now.family}",
        "buckets": f"the plan is for the buckets {_named(before)}, these are {_named(now)}",
        "endpoint": "the plan is for another object store than this profile's",
    }
    for name, words in told.items():
        if getattr(before, name) != getattr(now, name):
            found.append(Drift("", "profile", words))
    if before.catalog_prefix != now.catalog_prefix:
        told_prefix = f"the live catalog is {now.catalog_prefix} now, it was {before.catalog_prefix}"
        found.append(Drift("", "catalog", told_prefix))
    return found


def _require_writable(plan: PlanFile, path: Path, sources: Iterable[Path]) -> None:
    # Where it comes to lie, whatever links lead there; a link under its own name is replaced, not followed.
    place = Path(os.path.realpath(path.absolute().parent), path.name)
    held = {Path(os.path.realpath(directory)) for one in plan.recordings for directory in one.directories}
    inside = next((one for one in place.parents if is_rec_id(one.name) or one in held), None)
    source = next((one for one in sources if Path(os.path.realpath(one)) in place.parents), None)
    if inside or source:
        what = f"the directory of {shown(inside.name)}" if inside else f"the source {shown(str(source))}"
        raise PlanInvalid(
            f"this is in {what}, where nothing is ever written", place=shown(str(place)), remedy="Write it elsewhere."
        )


def _body(plan: PlanFile) -> bytes:
    """One recording a line, without what says nothing: a plan of many is read by people, and has a limit."""
    head = plan.model_dump_json(exclude={"recordings"}).removesuffix("}")
    one = TypeAdapter(IngestPlan)
    lines = ",\n".join(one.dump_json(recording, exclude_defaults=True).decode() for recording in plan.recordings)
    return f'{head},"recordings":[\n{lines}\n]}}\n'.encode()


def _named(plan: PlanFile) -> str:
    return ", ".join(plan.buckets[purpose] for purpose in sorted(plan.buckets))


def _drift_of(before: IngestPlan, now: IngestPlan) -> list[Drift]:
    if now.action in {"waits", "refused"} and not now.fingerprint and not now.stored:
        # It was given up before anything could be compared.
        return [Drift(before.rec_id, "source" if before.directories else "bucket", _reason(now))]
    found = []
    if before.source != now.source:
        found.append(Drift(before.rec_id, "source", _source_told(before, now)))
    if before.stored != now.stored:
        found.append(Drift(before.rec_id, "bucket", _bucket_told(before, now)))
    # A refusal comes before the catalog is looked at, or from it.
    if before.entry != now.entry and (now.entry or now.action in {"ingest", "nothing"}):
        told = "its rows were changed meanwhile" if before.entry else "it is registered meanwhile"
        found.append(Drift(before.rec_id, "catalog", told if now.entry else "it is not registered any more"))
    if not found and now.action in {"waits", "refused"}:
        found.append(Drift(before.rec_id, _blamed(now), _reason(now)))
    if not found and now.action == "nothing":
        found.append(Drift(before.rec_id, "bucket", "all of it is there meanwhile: nothing is left to do"))
    return found


def _source_told(before: IngestPlan, now: IngestPlan) -> str:
    counts = ((now.files - before.files, "file", "files"), (now.bytes - before.bytes, "byte", "bytes"))
    told = [
        f"{abs(count):,} {one if abs(count) == 1 else many} {'more' if count > 0 else 'fewer'} than planned"
        for count, one, many in counts
        if count
    ]
    return ", ".join(told) or "files have changed since"


def _bucket_told(before: IngestPlan, now: IngestPlan) -> str:
    came = before.files_to_send - now.files_to_send
    if came > 0:
        return f"{came:,} of its files are there that were not"
    if came < 0 and before.files == now.files:
        return f"{-came:,} of its files are not there any more"
    return "what it holds of the recording has changed"


def _reason(now: IngestPlan) -> str:
    """Why it is not to be ingested, without the recording, which is named before it."""
    return now.reason.removeprefix(f"{now.rec_id}: ")


def _blamed(now: IngestPlan) -> Literal["source", "bucket", "catalog"]:
    if now.error_type.startswith(("Catalog", "RecordingConflict")):
        return "catalog"
    return "bucket" if now.error_type.startswith(("Object", "Store")) else "source"


def _require_sound(plan: PlanFile, path: Path) -> None:
    def refuse(why: str, where: str) -> PlanInvalid:
        return PlanInvalid(why, place=f"{shown(str(path))}: {where}")

    for name, text in _texts(plan):
        if hidden := hidden_in(text):
            raise refuse(f"it {hidden}", name)
    seen: set[str] = set()
    for number, one in enumerate(plan.recordings):
        where = f"recordings.{number}"
        if one.rec_id in seen:
            raise refuse(f"{one.rec_id} is planned twice", where)
        seen.add(one.rec_id)
        numbers = [value for field in fields(one) if isinstance(value := getattr(one, field.name), int)]
        if any(not 0 <= value < _NUMBER_LIMIT for value in numbers):
            raise refuse("a number is no count of files or bytes", where)
        if one.action == "ingest" and not is_rec_id(one.rec_id):
            raise refuse("its rec_id is none", f"{where}.rec_id")
        for directory in one.directories:
            if not Path(directory).is_absolute() or os.path.normpath(directory) != directory:
                raise refuse("a directory is not named by its full path", f"{where}.directories")
            if Path(directory).name != one.rec_id:
                raise refuse(f"a directory is not {shown(one.rec_id)}'s", f"{where}.directories")


def _texts(plan: PlanFile) -> Iterator[tuple[str, str]]:
    for name in ("profile", "family", "endpoint", "catalog_prefix", "made_by"):
        yield name, getattr(plan, name)
    for name in ("buckets", "unavailable"):
        for key, value in getattr(plan, name).items():
            yield name, f"{key}{value}"
    for number, one in enumerate(plan.recordings):
        for field in fields(one):
            value = getattr(one, field.name)
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str):
                    yield f"recordings.{number}.{field.name}", text
