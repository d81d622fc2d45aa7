"""The union of a recording's manifests: the same in whatever order they come, and contradictions refused."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.recordings_on_disk import manifest_of
from ursa_pipelines.errors import ManifestConflict
from ursa_pipelines.recordings.manifest import parse_manifest
from ursa_pipelines.recordings.merge import MergedManifest, NamedManifest, merge_manifests

REC = "rec_20260520_195628_b1dd"
HASH = "0123456789abcdef" * 4
HOST = {"camera_a/seg_0000.mp4": b"video", "mic/host.wav": b"host"}
MOTOR = {"eeg_4559/seg_0000.edf": b"eeg", "mic/motor.wav": b"motor"}
BOTH = HOST | MOTOR


def named(name: str, contents: dict[str, bytes], node: str | None = None, **changes: Any) -> NamedManifest:
    """A manifest called `name` that lists `contents`, with `changes` to its fields; None removes one."""
    document = manifest_of(REC, contents) | {"node": node} | changes
    raw = json.dumps({field: value for field, value in document.items() if value is not None}).encode()
    return NamedManifest(name, parse_manifest(raw, rec_id=REC, place=name), raw)


def of_node(node: str, contents: dict[str, bytes], **changes: Any) -> NamedManifest:
    return named(f"_node_manifests/{node}.json", contents, node, **changes)


def merge(*manifests: NamedManifest) -> MergedManifest:
    """The union, proved to be the same in every order."""
    merged = merge_manifests(REC, manifests)
    for order in itertools.permutations(manifests):
        assert merge_manifests(REC, order) == merged
    assert merged is not None
    return merged


def stored_as(manifest: NamedManifest, name: str) -> NamedManifest:
    return NamedManifest(name, manifest.manifest, manifest.raw)


def test_one_manifest_is_its_own_union() -> None:
    one = named("manifest.json", BOTH, "green-mantis", recording_hash=HASH)
    merged = merge(one)
    assert list(merged.files) == sorted(BOTH)
    assert {path: file.size_bytes for path, file in merged.files.items()} == {p: len(c) for p, c in BOTH.items()}
    assert merged.rec_id == REC
    assert merged.stated_hash == HASH
    assert (merged.started_at, merged.ended_at) == (one.manifest.started_at, one.manifest.ended_at)
    assert merged.nodes == ("green-mantis",)


def test_no_manifests_have_no_union() -> None:
    assert merge_manifests(REC, []) is None


def test_fault_43_stubs_never_count() -> None:
    stub = named("manifest.json", {}, "dashboard", recording_hash=HASH, device_info={"rig": "other"})
    real = of_node("green-mantis", HOST)
    assert merge_manifests(REC, [stub, stub]) is None
    assert merge(stub, real) == merge(real)


def test_fault_47_halves_give_the_same_whole_in_either_order() -> None:
    host, motor = named("manifest.json", HOST, "green-mantis"), named("manifest.json", MOTOR, "green-motor")
    host_first = merge(host, stored_as(motor, "_node_manifests/green-motor.json"))
    motor_first = merge(stored_as(host, "_node_manifests/green-mantis.json"), motor)
    assert host_first == motor_first == merge(host, motor)
    assert host_first.files.keys() == BOTH.keys()
    assert host_first.nodes == ("green-mantis", "green-motor")
    assert {path: file.node for path, file in host_first.files.items()} == {
        **dict.fromkeys(HOST, "green-mantis"),
        **dict.fromkeys(MOTOR, "green-motor"),
    }


def test_fault_47_halves_without_a_nodes_name_give_the_same_whole_in_either_order() -> None:
    one, other = named("manifest.json", HOST, device_info=None), named("manifest.json", MOTOR, device_info=None)
    one_first = merge(one, stored_as(other, "_node_manifests/unnamed.json"))
    other_first = merge(stored_as(one, "_node_manifests/unnamed.0123abcd.json"), other)
    assert one_first == other_first
    assert one_first.nodes == ()


def test_fault_47_an_aggregate_and_a_half_give_the_same_whole_in_either_order() -> None:
    aggregate, motor = named("manifest.json", BOTH, "green-mantis"), named("manifest.json", MOTOR, "green-motor")
    aggregate_first = merge(aggregate, stored_as(motor, "_node_manifests/green-motor.json"))
    motor_first = merge(stored_as(aggregate, "_node_manifests/green-mantis.json"), motor)
    assert aggregate_first == motor_first
    assert aggregate_first.files["eeg_4559/seg_0000.edf"].node == "green-motor"
    assert aggregate_first.files["camera_a/seg_0000.mp4"].node == "green-mantis"


def test_fault_47_nodes_by_worker_mean_the_same_in_either_order() -> None:
    nodes = {"green-mantis": ["camera_a"], "green-motor": ["eeg_4559"]}
    aggregate, other = named("manifest.json", BOTH, "green-mantis", nodes=nodes), of_node("blue", {"notes/x": b""})
    first = merge(aggregate, other)
    assert first == merge(stored_as(aggregate, "_node_manifests/green-mantis.json"), other)
    assert first.files["eeg_4559/seg_0000.edf"].node == "green-motor"


def test_earliest_start_and_latest_end_count() -> None:
    merged = merge(
        of_node("a", HOST, started_at="2026-05-20T20:00:00Z", ended_at="2026-05-20T20:30:00Z"),
        of_node("b", MOTOR, started_at="2026-05-20T21:59:59+02:00", ended_at="2026-05-20T20:10:00Z"),
        of_node("c", {"notes/x": b""}, started_at=None, ended_at=None),
    )
    assert merged.started_at == datetime(2026, 5, 20, 19, 59, 59, tzinfo=UTC)
    assert merged.ended_at == datetime(2026, 5, 20, 20, 30, tzinfo=UTC)


def test_a_file_in_two_manifests_is_one_with_all_that_is_known_of_it() -> None:
    bare = {"path": "mic/x", "size_bytes": 1}
    early = bare | {"started_at": "2026-05-20T20:00:00Z", "ended_at": "2026-05-20T20:01:00Z"}
    late = bare | {"started_at": "2026-05-20T20:00:30Z", "ended_at": "2026-05-20T20:02:00Z", "sha256": HASH}
    merged = merge(
        *(named(f"_node_manifests/{i}.json", {}, files=[file]) for i, file in enumerate((bare, early, late)))
    )
    file = merged.files["mic/x"]
    assert file.sha256 == HASH
    assert file.started_at == datetime(2026, 5, 20, 20, 0, tzinfo=UTC)
    assert file.ended_at == datetime(2026, 5, 20, 20, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    "other",
    [{"path": "mic/x", "size_bytes": 2, "sha256": "a" * 64}, {"path": "mic/x", "size_bytes": 1, "sha256": "b" * 64}],
    ids=["size", "digest"],
)
@pytest.mark.parametrize("name", ["manifest.json", "_node_manifests/b.json"])
def test_fault_45_and_48_manifests_that_contradict_one_another_are_refused(name: str, other: dict[str, Any]) -> None:
    one = of_node("a", {}, files=[{"path": "mic/x", "size_bytes": 1, "sha256": "a" * 64}])
    contradicting = named(name, {}, "b", files=[other])
    for order in ([one, contradicting], [contradicting, one]):
        with pytest.raises(ManifestConflict) as caught:
            merge_manifests(REC, order)
        assert caught.value.place == "mic/x"
        assert all(part in str(caught.value) for part in (REC, "_node_manifests/a.json", name, ManifestConflict.remedy))


def test_fault_45_a_third_manifest_is_compared_with_a_digest_that_only_the_second_knows() -> None:
    files = [{"path": "mic/x", "size_bytes": 1}, {"path": "mic/x", "size_bytes": 1, "sha256": "a" * 64}]
    contradicting = {"path": "mic/x", "size_bytes": 1, "sha256": "b" * 64}
    manifests = [named(f"_node_manifests/{i}.json", {}, files=[file]) for i, file in enumerate([*files, contradicting])]
    for order in itertools.permutations(manifests):
        with pytest.raises(ManifestConflict, match="mic/x"):
            merge_manifests(REC, order)


@pytest.mark.parametrize(
    ("one", "other"), [("mic/A", "mic/a"), ("mic/\u00df", "mic/ss"), ("mic", "mic/a"), ("mic/x/y", "mic/x")]
)
def test_fault_36_paths_of_two_manifests_that_collide_are_refused(one: str, other: str) -> None:
    with pytest.raises(ManifestConflict, match="collide") as caught:
        merge_manifests(REC, [of_node("a", {one: b"1"}), of_node("b", {other: b"1"})])
    assert f"'{one}'" in str(caught.value)
    assert f"'{other}'" in str(caught.value)


def test_stated_recording_hashes_must_agree() -> None:
    host, motor = of_node("a", HOST, recording_hash=HASH), of_node("b", MOTOR, recording_hash="f" * 64)
    with pytest.raises(ManifestConflict) as caught:
        merge_manifests(REC, [host, motor])
    assert "_node_manifests/a.json and _node_manifests/b.json state different recording_hashes" in str(caught.value)
    assert merge(host, of_node("b", MOTOR)).stated_hash == HASH
    assert merge(host, of_node("b", MOTOR, recording_hash=HASH)).stated_hash == HASH


def test_a_hash_that_was_reconstructed_is_not_stated() -> None:
    derived = named("manifest.json", HOST, recording_hash="f" * 64, reconstruction={"source": "nas"})
    assert merge(derived).stated_hash is None
    assert merge(derived, of_node("b", MOTOR, recording_hash=HASH)).stated_hash == HASH


def test_device_info_is_kept_for_each_node() -> None:
    merged = merge(of_node("a", HOST, device_info={"rig": "green"}), of_node("b", MOTOR, device_info={"rig": "blue"}))
    assert merged.device_info == {"a": {"rig": "green"}, "b": {"rig": "blue"}}
    assert merge(of_node("a", HOST, device_info=None)).device_info is None


def test_device_info_that_contradicts_itself_is_refused() -> None:
    key = "\u202erig" + "x" * 500
    with pytest.raises(ManifestConflict) as caught:
        merge_manifests(REC, [named(f"{i}.json", {f"mic/{i}": b""}, device_info={key: i}) for i in range(2)])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "stated", "node"),
    [
        ("_node_manifests/green.json", None, "green"),
        ("_node_manifests/green.local.json", None, "green.local"),
        ("_node_manifests/green.0123abcd.json", None, "green"),
        ("_node_manifests/green.json", "green-mantis", "green-mantis"),
        ("_node_manifests/unnamed.json", None, None),
        ("_node_manifests/unnamed.0123abcd.json", None, None),
        ("_node_manifests/\u202egreen\n.json", None, None),
        ("_node_manifests/.json", None, None),
        ("manifest.json", None, None),
        ("manifest.json", "green-mantis", "green-mantis"),
    ],
)
def test_a_node_is_called_as_its_manifest_says_else_as_the_file_is(
    name: str, stated: str | None, node: str | None
) -> None:
    assert named(name, HOST, stated).node == node


def test_a_supplement_made_here_names_no_node_by_its_file() -> None:
    assert named("_node_manifests/green.json", HOST, reconstruction={"source": "nas"}).node is None


def test_fault_81_a_participants_name_is_not_in_the_repr_of_a_manifest() -> None:
    assert "Aria" not in repr(named("manifest.json", HOST, participant="Aria Lin"))


def test_node_manifests_say_whose_the_missing_workers_are() -> None:
    merged = merge(of_node("green-mantis", HOST), of_node("green-motor", MOTOR))
    assert merged.workers_by_other_nodes(HOST) == {"eeg_4559"}
    assert merged.workers_by_other_nodes(MOTOR) == {"camera_a"}
    assert merged.workers_by_other_nodes(BOTH) == frozenset()


def test_node_manifests_beside_a_top_level_one_say_whose_the_missing_workers_are() -> None:
    merged = merge(named("manifest.json", BOTH), of_node("green-mantis", HOST), of_node("green-motor", MOTOR))
    assert merged.workers_by_other_nodes(HOST) == {"eeg_4559"}
    assert merged.nodes == ("green-mantis", "green-motor")


def test_nodes_by_worker_say_whose_the_missing_workers_are() -> None:
    nodes = {"green-mantis": ["camera_a"], "green-motor": ["eeg_4559", "battery"]}
    merged = merge(named("manifest.json", BOTH | {"battery/x": b""}, nodes=nodes))
    assert merged.workers_by_other_nodes(["camera_a/seg_0000.mp4"]) >= {"eeg_4559", "battery"}
    assert merged.workers_by_other_nodes(["eeg_4559/seg_0000.edf"]) >= {"camera_a"}
    assert "battery" not in merged.workers_by_other_nodes(["eeg_4559/seg_0000.edf"])


def test_a_worker_that_two_nodes_claim_belongs_to_neither_alone() -> None:
    nodes = {"green-mantis": ["camera_a", "mic"], "green-motor": ["eeg_4559", "mic"]}
    merged = merge(named("manifest.json", BOTH, nodes=nodes))
    assert merged.files["mic/host.wav"].node is None
    assert merged.workers_by_other_nodes(HOST) == {"eeg_4559"}


def test_a_list_of_nodes_says_that_a_wholly_missing_worker_may_be_anothers() -> None:
    merged = merge(named("manifest.json", BOTH, nodes=["green-mantis", "green-motor"]))
    assert merged.workers_by_other_nodes(HOST) == {"eeg_4559"}
    assert merged.workers_by_other_nodes(["mic/host.wav"]) == {"camera_a", "eeg_4559"}


@pytest.mark.parametrize("said", [{}, {"node": "green-mantis"}, {"nodes": ["green-mantis"]}, {"nodes": []}], ids=str)
def test_a_manifest_of_one_node_or_none_excuses_no_missing_worker(said: dict[str, Any]) -> None:
    merged = merge(named("manifest.json", BOTH, **said))
    assert merged.workers_by_other_nodes(HOST) == frozenset()
    assert merged.workers_by_other_nodes([]) <= {"camera_a", "mic", "eeg_4559"}


def test_one_named_node_beside_files_of_nobody_excuses_no_missing_worker() -> None:
    merged = merge(named("manifest.json", BOTH), of_node("green-mantis", HOST))
    assert merged.nodes == ("green-mantis",)
    assert merged.workers_by_other_nodes(HOST) == frozenset()


def test_a_file_at_the_root_belongs_to_no_worker() -> None:
    merged = merge(of_node("a", {"README.md": b"", "mic/x": b""}), of_node("b", MOTOR))
    assert merged.workers_by_other_nodes(MOTOR) == frozenset()
    assert merged.workers_by_other_nodes(["eeg_4559/seg_0000.edf"]) == frozenset()


def test_a_worker_of_which_this_node_has_a_part_is_not_anothers() -> None:
    merged = merge(of_node("a", {"mic/a0": b"", "mic/a1": b""}), of_node("b", {"mic/b0": b"", "eeg/x": b""}))
    assert merged.workers_by_other_nodes(["mic/a0"]) == {"eeg"}
