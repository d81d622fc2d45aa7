"""manifest.json, format 1: strict parsing of untrusted bytes, and writing (DESIGN section 3).

Order of the checks: size, encoding, depth, JSON (no duplicate keys, no NaN), types and values, paths
among one another, the recording's id. The first one that fails is a `ManifestInvalid` that names the
place, such as `manifest.json: files[17].path`.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NoReturn

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    model_serializer,
)

from ursa_pipelines.errors import ManifestInvalid
from ursa_pipelines.recordings.layout import colliding_paths, refusal_of_path, shown

MANIFEST_BYTES_LIMIT = 64 * 1024 * 1024
MANIFEST_DEPTH_LIMIT = 64
MANIFEST_CONTAINERS_LIMIT = 2_000_000
FILE_BYTES_LIMIT = 5_000 * 1024**3
"""R2's largest object is 4.995 TiB; what is larger can never be stored whole."""

# A string that never ends counts to the end of the text: trying again from each quote in it would be quadratic.
_JSON_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_PROBLEM_LIMIT = 400


def _utc_time(value: object) -> datetime:
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, str) and value.isascii():
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("is not an ISO 8601 time") from None
    else:
        raise ValueError("is not an ISO 8601 time")
    if moment.tzinfo is None:
        raise ValueError("has no time zone; end it with Z for UTC")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is out of range") from None


def _safe_path(path: str, info: ValidationInfo) -> str:
    refusal = refusal_of_path(path, rec_id=(info.context or {}).get("rec_id", ""))
    if refusal:
        raise ValueError(refusal)
    return path


UtcTime = Annotated[
    datetime,
    BeforeValidator(_utc_time),
    PlainSerializer(lambda moment: moment.isoformat().replace("+00:00", "Z"), return_type=str, when_used="json"),
]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")]
NodeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\z")]
RelativePath = Annotated[str, AfterValidator(_safe_path)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", strict=True, hide_input_in_errors=True)

    @model_serializer(mode="wrap")
    def _without_absent_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unknown = self.__pydantic_extra__ or {}
        return {name: value for name, value in handler(self).items() if value is not None or name in unknown}


class ManifestFile(_Strict):
    """One segment as a manifest lists it. `sha256` None means unattested: the file is hashed here."""

    path: RelativePath
    size_bytes: int = Field(ge=0, le=FILE_BYTES_LIMIT)
    sha256: Digest | None = None
    started_at: UtcTime | None = None
    ended_at: UtcTime | None = None


class Reconstruction(_Strict):
    """Present in manifests that this package made, and only there.

    `ended_at_source` is `media` where the manifest's `ended_at` is the start and the length that media files told.
    """

    reconstructed_at: UtcTime | None = None
    tool_version: str | None = None
    reconstructed_participant: bool = False
    source: Literal["nas", "r2"] | None = None
    added_files: list[str] | None = None
    ended_at_source: str | None = None


class Manifest(_Strict):
    """A manifest as parsed. Unknown fields are kept and written back."""

    manifest_version: int = Field(default=1, ge=1, le=1)
    recording_id: str
    recording_hash: Digest | None = None
    node: NodeName | None = None
    nodes: list[NodeName] | dict[NodeName, list[str]] | None = None
    started_at: UtcTime | None = None
    ended_at: UtcTime | None = None
    participant: str | None = Field(default=None, repr=False)
    device_info: dict[str, Any] | None = None
    files: list[ManifestFile] = Field(default_factory=list)
    reconstruction: Reconstruction | None = None

    def __repr__(self) -> str:
        # What the rig added of its own may be a participant's name.
        node = f", node {self.node}" if self.node else ""
        return f"Manifest({self.recording_id}, {len(self.files):,} files{node})"

    __str__ = __repr__

    @property
    def is_stub(self) -> bool:
        """Whether it lists no files, in which case it counts as no manifest."""
        return not self.files


def parse_manifest(raw: bytes, *, rec_id: str, place: str) -> Manifest:
    """The manifest in `raw`, which was read from `place` (a file name or key) for the recording `rec_id`.

    Raises `ManifestInvalid`, naming the field, for whatever DESIGN section 3 forbids.
    """

    def refuse(problem: str, field: str = "") -> NoReturn:
        where = f"{shown(place)}: {shown(field)}" if field else shown(place)
        raise ManifestInvalid(shown(problem, _PROBLEM_LIMIT), recording=rec_id, place=where)

    if len(raw) > MANIFEST_BYTES_LIMIT:
        refuse(f"it has {len(raw):,} bytes; at most {MANIFEST_BYTES_LIMIT:,} are read")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw[:4]:
        refuse("it is UTF-16 or UTF-32; manifests are UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        refuse(f"it is not UTF-8 (byte {error.start})")
    too_much = _structure_refusal(raw)
    if too_much:
        refuse(too_much)
    try:
        document = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_no_constant, parse_float=_finite_float
        )
    except (ValueError, RecursionError) as error:
        refuse(f"it is not valid JSON: {error}")
    if not isinstance(document, dict):
        refuse("it is not a JSON object")
    try:
        manifest = Manifest.model_validate(document, context={"rec_id": rec_id})
    except ValidationError as error:
        refuse(*_first_problem(error))
    if _SURROGATE_ESCAPE.search(raw):
        try:
            json.dumps(document, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            refuse("holds an unpaired surrogate", _first_surrogate(document) or "")
    collision = colliding_paths(file.path for file in manifest.files)
    if collision:
        refuse(f"the paths '{shown(collision[0])}' and '{shown(collision[1])}' collide", "files")
    for index, file in enumerate(manifest.files):
        if file.started_at and file.ended_at and file.ended_at < file.started_at:
            refuse("is before started_at", f"files[{index}].ended_at")
    if manifest.started_at and manifest.ended_at and manifest.ended_at < manifest.started_at:
        refuse("is before started_at", "ended_at")
    if manifest.recording_id != rec_id:
        refuse(f"names '{shown(manifest.recording_id)}', another recording than the one it lies in", "recording_id")
    return manifest


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as UTF-8 JSON, fields without a value left out."""
    return manifest.model_dump_json(indent=1).encode()


def _structure_refusal(raw: bytes) -> str | None:
    depth = containers = 0
    for match in _JSON_STRUCTURE.finditer(raw):
        token = match.group()
        if token in (b"[", b"{"):
            depth, containers = depth + 1, containers + 1
            if depth > MANIFEST_DEPTH_LIMIT:
                return f"it is nested more than {MANIFEST_DEPTH_LIMIT} levels deep"
            if containers > MANIFEST_CONTAINERS_LIMIT:
                return f"it holds more than {MANIFEST_CONTAINERS_LIMIT:,} objects and lists"
        elif token in (b"]", b"}"):
            depth -= 1
    return None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        seen: set[str] = set()
        duplicate = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key '{shown(duplicate)}' stands twice")
    return document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite_float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is out of range")
    return number


def _first_problem(error: ValidationError) -> tuple[str, str]:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    first = problems[0]
    if first["loc"][:1] == ("nodes",):
        # It may have two forms, and each reports why it is not the one; what got further is what was meant.
        first = max((one for one in problems if one["loc"][:1] == ("nodes",)), key=lambda one: len(one["loc"]))
    return first["msg"].removeprefix("Value error, "), _field_name(first["loc"])


def _first_surrogate(value: object, field: str = "") -> str | None:
    """The field below `value` whose name or text has no UTF-8 form, or None."""
    if isinstance(value, str):
        return field if any("\ud800" <= character <= "\udfff" for character in value) else None
    if isinstance(value, dict):
        below = [(f"{field}.{name}" if field else name, one) for name, one in value.items()]
        below += [(field, name) for name in value]
    elif isinstance(value, list):
        below = [(f"{field}[{index}]", one) for index, one in enumerate(value)]
    else:
        return None
    return next((found for name, one in below if (found := _first_surrogate(one, name)) is not None), None)


def _field_name(location: tuple[int | str, ...]) -> str:
    name = ""
    for part in location:
        if part == "[key]" or (isinstance(part, str) and part.startswith(("list[", "dict["))):
            continue
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name
