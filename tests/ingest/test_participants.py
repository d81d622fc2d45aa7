"""Who took part: participant.txt, its node variants, and names that are refused (DESIGN sections 3 and 6)."""

import pytest

from tests.lab import Lab
from tests.recordings_on_disk import write_recording
from ursa_pipelines.errors import ParticipantInvalid

REC = "rec_20260520_195628_b1dd"
FILES = {"mic/seg_0000.wav": b"audio"}


def test_names_of_other_nodes_count_and_are_stored_as_they_are(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, participant="Aria Lin")
    (directory / "_node_participants").mkdir()
    (directory / "_node_participants" / "green-motor.txt").write_text("Björn Ek\n", encoding="utf-8")

    lab.data.ingest(source_dir=directory)

    names = {row.metadata["display_name"] for row in lab.data.list_participants()}
    assert names == {"Aria Lin", "Björn Ek"}
    assert {"participant.txt", "_node_participants/green-motor.txt"} <= set(lab.objects(REC))


def test_a_name_that_is_not_utf8_is_refused_before_anything_is_written(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES)
    (directory / "participant.txt").write_bytes("Björn Ek".encode("latin-1"))
    before = lab.everything()

    with pytest.raises(ParticipantInvalid, match=r"not UTF-8.*Save it again"):
        lab.data.ingest(source_dir=directory)

    assert lab.everything() == before


def test_a_blank_participant_registers_nobody(lab: Lab):
    directory = write_recording(lab.nas, REC, FILES, participant=" \n")

    result = lab.data.ingest(source_dir=directory)

    assert result.recording.participant_ids == []
    assert "participant.txt" not in lab.objects(REC)
