"""A process that carries out run after run holds no more files and sockets than one that has carried out a few."""

from __future__ import annotations

import gc

import dagster as dg
import psutil

from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.interface import DataInterface
from ursa_pipelines.orchestration.in_process import ingest_in_process

RUNS = 8


def opened() -> tuple[int, int]:
    """Descriptors of this process, and interfaces that nobody has let go."""
    gc.collect()
    return psutil.Process().num_fds(), sum(isinstance(one, DataInterface) for one in gc.get_objects())


def test_runs_in_one_process_leave_nothing_open(lab: Lab, instance: dg.DagsterInstance):
    rec_ids = [f"rec_20260520_1956{second:02}_b1dd" for second in range(2 * RUNS)]
    for rec_id in rec_ids[::2]:
        write_recording(lab.nas, rec_id, {"camera_a/seg_0000.mp4": rec_id.encode() * 100})
    instance.add_dynamic_partitions("recordings", rec_ids)
    after_each: list[tuple[int, int]] = []

    # Only every other partition is chosen, so that each gets a run of its own.
    items = ingest_in_process(
        instance, None, lab.config, rec_ids[::2], tags={}, tell=lambda items: after_each.append(opened())
    )

    assert [item.status for item in items] == ["OK"] * RUNS
    descriptors, interfaces = zip(*after_each, strict=True)
    assert interfaces[-1] == interfaces[1]
    assert descriptors[-1] <= descriptors[1] + 2, descriptors


def test_an_interface_that_was_closed_opens_again_when_it_is_used(lab: Lab):
    data = lab.interface()
    data.ingest(source_dir=write_recording(lab.nas, "rec_20260520_195621_b1dd", {"mic/a.wav": b"audio"}))
    before = opened()[0]

    data.close()
    data.close()

    assert opened()[0] < before
    assert data.verify("rec_20260520_195621_b1dd", deep=True).problems == ()
    data.ingest(source_dir=write_recording(lab.nas, "rec_20260520_195622_b1dd", {"mic/a.wav": b"other"}))
    assert len(data.list_recordings()) == 2
