"""What an ingest writes, in its order: whoever reads between any two writes finds nothing that is not there."""

from __future__ import annotations

import re

from tests.faults.detour import Detour
from tests.lab import Lab
from tests.recordings_on_disk import write_recording

REC = "rec_20260520_195628_b1dd"
FILES = {"mic/seg_0000.wav": b"audio" * 100_000, "eeg_4559/seg_0000.edf": b"eeg" * 100}
STEPS = {
    "segment": r"^PUT /raw[^/]*/recordings/[^/]+/(mic|eeg_4559)/",
    "participant": r"^PUT /raw[^/]*/recordings/[^/]+/participant\.txt",
    "manifest": r"^PUT /raw[^/]*/recordings/[^/]+/manifest\.json",
    "commit marker": r"^PUT /raw[^/]*/manifests/",
    "tail mark and claim": r"^PUT /assets[^/]*/.*/(tail|rec_ids)/",
    "entry": r"^PUT /assets[^/]*/.*/entries/",
}
"""What each of these speaks of is written before it."""


def test_each_write_of_an_ingest_comes_after_what_it_speaks_of(lab: Lab, detour: Detour):
    detour.interface().ingest(source_dir=write_recording(lab.nas, REC, FILES, participant="Aria Lin"))

    written = [step for seen in detour.proxy.seen for step, one in STEPS.items() if re.search(one, seen.request)]
    assert written == ["segment"] * 2 + ["participant", "manifest", "commit marker"] + ["tail mark and claim"] * 2 + [
        "entry"
    ]
