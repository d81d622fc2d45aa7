"""Keeps the readings fresh beside the daemon, and tells them in Prometheus's terms.

Each part is read by a thread of its own, again and again, so that a scrape costs the same at any number of recordings
and answers whatever hangs. A part that could not be read keeps its last values: `ursa_up` says so, and
`ursa_read_timestamp_seconds` how old they are. What was never read is left out, rather than told as 0.

Label values are from closed sets, but for the names of profile and sources, which the profile's YAML gives: never a
recording, a participant, a path, or the text of an error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from ursa_pipelines.orchestration.metrics.ledger import OUTCOMES, REASONS, RUN_SECONDS, Totals
from ursa_pipelines.orchestration.metrics.readings import DagsterReading, Readings, RecordingsReading, StoreReading

logger = logging.getLogger("ursa.metrics")

PARTS = ("dagster", "recordings", "store", "sources")

_LOOK_SECONDS = 1.0
_SHARE_OF_TIME = 20
"""A reading that takes long comes less often: it may take a twentieth of one thread's time."""

_T = TypeVar("_T")


@dataclass(eq=False)
class Part(Generic[_T]):
    """One part of the readings, read every so many seconds. `read_at` is seconds since 1970 UTC."""

    name: str
    every: float
    read: Callable[[], _T]
    value: _T | None = None
    read_at: float | None = None
    is_up: bool = False

    def refresh(self) -> float:
        """Reads it; returns how long that took, in seconds."""
        began = time.monotonic()
        try:
            self.value = self.read()
        except Exception as error:  # noqa: BLE001 - whatever keeps it from being read, the others go on
            # Once for each time that it begins to fail; its text may name anything.
            if self.is_up or self.read_at is None:
                logger.warning("%s cannot be read: %s", self.name, type(error).__name__)
            self.is_up = False
        else:
            self.is_up, self.read_at = True, time.time()
        return time.monotonic() - began


@dataclass(eq=False)
class Exporter:
    """A collector of prometheus_client's. `start` keeps it fresh until `stop`; `read_once` reads each part once.

    `names` are the parts that it reads.
    """

    profile: str
    readings: Readings
    names: Collection[str] = PARTS
    _over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        readings = self.readings
        self.dagster: Part[DagsterReading] = Part("dagster", 15.0, readings.dagster)
        self.recordings: Part[RecordingsReading] = Part("recordings", 60.0, readings.recordings)
        self.store: Part[StoreReading] = Part("store", 60.0, readings.store)
        self.sources: Part[dict[str, bool]] = Part("sources", 30.0, readings.sources)

    @property
    def parts(self) -> Sequence[Part[Any]]:
        return [one for one in (self.dagster, self.recordings, self.store, self.sources) if one.name in self.names]

    def start(self) -> None:
        """Reads each part from now on, in daemon threads."""
        for part in self.parts:
            threading.Thread(target=self._keep_fresh, args=(part,), name=f"metrics-{part.name}", daemon=True).start()

    def stop(self) -> None:
        """Begins no further reading."""
        self._over.set()

    def read_once(self, seconds: float) -> None:
        """Reads each part once. What has not answered after so many seconds is told as not up."""
        # The states are told from the events.
        together = ((self.dagster, self.recordings), (self.store,), (self.sources,))
        wanted = [[part for part in parts if part in self.parts] for parts in together]
        threads = [threading.Thread(target=_refresh, args=(parts,), daemon=True) for parts in wanted]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + seconds
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0.0))

    def collect(self) -> Iterator[Metric]:
        """The metrics as they were last read; reads nothing."""
        yield from self._about_itself()
        yield from self._by_state()
        yield from self._by_dagster()
        if (store := self.store.value) is not None:
            yield _gauge(
                "ursa_catalog_tail_entries", "Registered recordings that wait for the fold.", store.tail_entries
            )
            told = "Uploads of single files that have begun and not ended, running ones among them."
            yield _gauge("ursa_unfinished_uploads", told, store.unfinished_uploads)
        if (sources := self.sources.value) is not None:
            told = "Whether the source is mounted and answers."
            family = GaugeMetricFamily("ursa_source_available", told, labels=["source"])
            for name, is_there in sources.items():
                family.add_metric([name], float(is_there))
            yield family

    def _keep_fresh(self, part: Part[Any]) -> None:
        # The states are told from the events, of which the first reading may take minutes.
        while part is self.recordings and self.dagster.read_at is None and not self._over.is_set():
            self._over.wait(_LOOK_SECONDS)
        while not self._over.is_set():
            took = part.refresh()
            self._over.wait(max(part.every, took * _SHARE_OF_TIME))

    def _about_itself(self) -> Iterator[Metric]:
        told = "Whether the last reading of this part succeeded."
        up = GaugeMetricFamily("ursa_up", told, labels=["part", "profile"])
        read = GaugeMetricFamily(
            "ursa_read_timestamp_seconds", "When this part was last read with success.", labels=["part"]
        )
        for part in self.parts:
            up.add_metric([part.name, self.profile], float(part.is_up))
            if part.read_at is not None:
                read.add_metric([part.name], part.read_at)
        yield up
        yield read

    def _by_state(self) -> Iterator[Metric]:
        if (reading := self.recordings.value) is None:
            return
        family = GaugeMetricFamily("ursa_recordings", "Recordings that Dagster knows of, by state.", labels=["state"])
        for state, count in reading.states.items():
            family.add_metric([state], count)
        yield family
        told = "How long ago the oldest recording was made that has arrived and is not registered; 0 without one."
        yield _gauge("ursa_backlog_oldest_seconds", told, reading.oldest_backlog_seconds)

    def _by_dagster(self) -> Iterator[Metric]:
        if (reading := self.dagster.value) is None:
            return
        yield from _totals(reading.totals)
        told = "When each of Dagster's daemons last gave a sign of life."
        beats = GaugeMetricFamily("ursa_daemon_heartbeat_timestamp_seconds", told, labels=["daemon"])
        for daemon, at in reading.heartbeats.items():
            beats.add_metric([daemon], at)
        yield beats
        if reading.reconciled_at is not None:
            told = "When sources, bucket and catalog were last compared."
            yield _gauge("ursa_last_reconciliation_timestamp_seconds", told, reading.reconciled_at)
            told = "Recordings of which the last reconciliation found this."
            found = GaugeMetricFamily("ursa_reconciled_recordings", told, labels=["finding"])
            for finding, count in (reading.found or {}).items():
                found.add_metric([finding], count)
            yield found
        if reading.backlog_bytes is not None:
            told = "Bytes on sources that were not registered at the last reconciliation."
            yield _gauge("ursa_backlog_bytes", told, reading.backlog_bytes)
        if reading.catalog_bytes is not None:
            told = "Bytes of all recordings in the catalog at its last materialization."
            yield _gauge("ursa_catalog_bytes", told, reading.catalog_bytes)


def _refresh(parts: Sequence[Part[Any]]) -> None:
    for part in parts:
        part.refresh()


def _totals(totals: Totals) -> Iterator[Metric]:
    told = "Ingests that ended in a registered recording, by what that changed."
    ingested = CounterMetricFamily("ursa_ingested_recordings", told, labels=["outcome"])
    # A series that began with its first event would hide that one from `increase`.
    for outcome in sorted(OUTCOMES):
        ingested.add_metric([outcome], totals.ingested[outcome])
    yield ingested
    told = "Bytes sent by ingests that ended in a registered recording."
    yield CounterMetricFamily("ursa_uploaded_bytes", told, value=totals.uploaded_bytes)
    told = "Ingests that failed, by the kind of error."
    failures = CounterMetricFamily("ursa_ingest_failures", told, labels=["reason"])
    for reason in sorted(REASONS):
        failures.add_metric([reason], totals.failures[reason])
    yield failures
    runs = HistogramMetricFamily("ursa_run_seconds", "How long ended runs took.", labels=["dagster_job", "outcome"])
    bounds = [*map(str, RUN_SECONDS), "+Inf"]
    for (job, outcome), durations in sorted(totals.runs.items()):
        runs.add_metric([job, outcome], list(zip(bounds, accumulate(durations.counts), strict=True)), durations.seconds)
    yield runs


def _gauge(name: str, told: str, value: float) -> Metric:
    return GaugeMetricFamily(name, told, value=value)
