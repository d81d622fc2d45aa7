"""Single-bit damage, a ledger of what noticed it, and a lab that is put back after each."""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.faults.figures import record
from tests.lab import Lab
from ursa_pipelines.catalog.catalog import Catalog
from ursa_pipelines.errors import UrsaError
from ursa_pipelines.objects.store import Bucket

SEED = int(os.environ.get("URSA_FAULTS_SEED", "20260520"))
FLIPS = 60 if os.environ.get("URSA_FAULTS") == "long" else 4
"""Of each kind of thing."""

REC, CAMERA = "rec_20260520_195628_b1dd", "camera_a/seg_0000.mp4"
FILES = {CAMERA: b"video frame;" * 300, "mic/seg_0000.wav": b"audio" * 40, "eeg_4559/seg_0000.edf": b"eeg" * 50}

Verdict = tuple[Literal["noticed", "harmless", "unnoticed"], str]


def same(is_same: bool, otherwise: str) -> Verdict:
    return ("harmless", "the same result") if is_same else ("unnoticed", otherwise)


@dataclass
class Ledger:
    """What became of the flips in one kind of thing. A verdict is counted; an untyped exception is a failure.

    `unnoticed` may hold only what `known` names: what nothing that the package keeps could tell today.
    """

    what: str
    known: tuple[str, ...] = ()
    noticed: Counter[str] = field(default_factory=Counter)
    harmless: Counter[str] = field(default_factory=Counter)
    unnoticed: Counter[str] = field(default_factory=Counter)
    flip: str = ""
    surprises: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chosen = random.Random(f"{SEED} {self.what}")

    def damaged(self, content: bytes, within: Callable[[int], bool] = lambda at: True) -> bytes:
        """The content with one bit flipped, in a byte that may be hit by its place."""
        while not within(at := self.chosen.randrange(len(content))):
            pass
        bit = self.chosen.randrange(8)
        body = bytearray(content)
        body[at] ^= 1 << bit
        self.flip = f"bit {bit} of byte {at}, in {content[max(0, at - 20) : at + 20]!r}"
        return bytes(body)

    def look(self, what_it_comes_to: Callable[[], Verdict]) -> None:
        """Counts the verdict, or the `UrsaError` that is raised, which has noticed it."""
        try:
            kind, how = what_it_comes_to()
        except UrsaError as error:
            kind, how = "noticed", type(error).__name__
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            raise AssertionError(f"{self.what}, seed {SEED}: {self.flip}: untyped {error!r}") from error
        getattr(self, kind)[how] += 1
        if kind == "unnoticed" and not any(one in how for one in self.known):
            self.surprises.append(f"{how} ({self.flip})")

    def close(self, at_least: int = FLIPS) -> None:
        """Records the figures. Fails for what went unnoticed and is not known to."""
        found = {"noticed": self.noticed, "harmless": self.harmless, "unnoticed": self.unnoticed}
        flips = sum(sum(one.values()) for one in found.values())
        assert flips >= at_least, f"{self.what}: {flips} flips"
        figures = {kind: sum(counts.values()) for kind, counts in found.items()}
        told = {f"{kind}_by": json.dumps(counts, sort_keys=True) for kind, counts in found.items() if counts}
        record(f"bit flips, {self.what}", flips=flips, false_alarms=0, seed=SEED, **figures, **told)
        assert not self.surprises, f"{self.what}, seed {SEED}: nobody noticed: " + "; ".join(self.surprises)


def put(bucket: Bucket, key: str, body: bytes) -> None:
    """Writes over an object and leaves its metadata as it is, which only a damaged store would do."""
    client = bucket.multipart_client
    metadata = client.head_object(Bucket=bucket.name, Key=key)["Metadata"]
    client.put_object(Bucket=bucket.name, Key=key, Body=bytearray(body), Metadata=metadata)


@dataclass
class Kept:
    """A bucket below some prefixes as it was, to be put back."""

    bucket: Bucket
    prefixes: tuple[str, ...] = ("recordings/", "manifests/", "ursa/")

    def __post_init__(self) -> None:
        client = self.bucket.multipart_client
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        for key in self._listed():
            found = client.get_object(Bucket=self.bucket.name, Key=key)
            self.objects[key] = found["Body"].read(), found["Metadata"]
        self._etags = self._listed()

    def restore(self) -> None:
        client, now = self.bucket.multipart_client, self._listed()
        for key in now.keys() - self.objects.keys():
            client.delete_object(Bucket=self.bucket.name, Key=key)
        for key, (body, metadata) in self.objects.items():
            if now.get(key) != self._etags[key]:
                client.put_object(Bucket=self.bucket.name, Key=key, Body=bytearray(body), Metadata=metadata)

    def below(self, part: str) -> list[str]:
        return sorted(key for key in self.objects if part in key)

    def _listed(self) -> dict[str, str]:
        return {info.key: info.etag for prefix in self.prefixes for info in self.bucket.list_objects(prefix)}


@dataclass(frozen=True)
class Stage:
    """A lab that holds one recording, which was ingested from `directory`; `kept` puts both buckets back."""

    lab: Lab
    directory: Path
    recording_hash: str
    kept: tuple[Kept, Kept]

    def restore(self) -> None:
        for one in self.kept:
            one.restore()

    def entry(self) -> dict[str, Any]:
        """What the recording's entry says."""
        rows = Catalog.open(self.lab.assets).entry(self.recording_hash).rows
        return {
            "recording": rows.recording.comparable(),
            "modalities": [row.comparable() for row in rows.modalities],
            "participants": [row.comparable() for row in rows.participants],
        }


def changed_fields(before: bytes, after: bytes) -> str:
    """Where two JSON documents differ, such as `recording.duration`."""
    flat, other = dict(_flat(json.loads(before))), dict(_flat(json.loads(after)))
    names = (name for name in flat.keys() | other.keys() if flat.get(name) != other.get(name))
    return " ".join(sorted({re.sub(r"\[[0-9]+]", "[]", name) for name in names}))


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _flat(one, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from _flat(one, f"{name}[{index}]")
    else:
        yield name, repr(value)
