"""Profiles: the shipped ones, files of the user's own, and what is refused with the field as its place."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from ursa_pipelines.errors import ProfileInvalid
from ursa_pipelines.profiles import Profile, load_profile

ROLES = {"assets_ro", "assets_rw", "raw_ro", "raw_rw"}
SECRET = "f3b0c44298fc1c149afbf4c8996fb924"


def own_profile(**changes: Any) -> dict[str, Any]:
    references = {
        role: {"access_key_id": f"op://Vault/{role}/id", "secret_access_key": f"op://Vault/{role}/secret"}
        for role in sorted(ROLES)
    }
    return {
        "name": "own",
        "family": "test",
        "endpoint": "https://s3.example.org",
        "buckets": {"raw": "own-raw", "assets": "own-assets"},
        "credentials": references,
        **changes,
    }


def written(directory: Path, document: object) -> Path:
    path = directory / "own.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


@pytest.mark.parametrize(
    ("name", "family", "raw", "assets"),
    [
        ("local", "local", "constellation-data", "constellation-assets"),
        ("r2", "production", "constellation-data", "constellation-assets"),
        ("r2-test", "test", "constellation-data-test", "constellation-assets-test"),
    ],
)
def test_a_shipped_profile_names_its_family_and_buckets(name: str, family: str, raw: str, assets: str) -> None:
    profile = load_profile(name)
    assert (profile.name, profile.family) == (name, family)
    assert (profile.buckets.raw, profile.buckets.assets) == (raw, assets)
    assert profile.catalog_prefix is None


@pytest.mark.parametrize("name", ["r2", "r2-test"])
def test_a_remote_profile_has_one_reference_for_each_role_and_no_two_roles_share_one(name: str) -> None:
    profile = load_profile(name)
    assert set(profile.credentials) == ROLES
    ids = {references.access_key_id for references in profile.credentials.values()}
    assert len(ids) == len(ROLES)
    assert all(reference.startswith("op://Engineering/R2 ") for reference in ids)
    assert profile.endpoint is not None
    assert profile.endpoint.startswith("op://Engineering/")


def test_the_test_profile_shares_neither_bucket_nor_reference_with_production() -> None:
    r2, twin = load_profile("r2"), load_profile("r2-test")
    assert {r2.buckets.raw, r2.buckets.assets} & {twin.buckets.raw, twin.buckets.assets} == set()
    assert {reference.access_key_id for reference in r2.credentials.values()}.isdisjoint(
        reference.access_key_id for reference in twin.credentials.values()
    )


def test_production_takes_recordings_from_the_shared_drive() -> None:
    (source,) = load_profile("r2").sources
    assert source.path == Path("/Volumes/Shared_Drive/constellation-data/recordings")


def test_the_waiting_times_are_short_on_local_and_long_elsewhere() -> None:
    waits = {
        name: (
            load_profile(name).settings.quiet_period,
            load_profile(name).settings.reconstruct_after,
            load_profile(name).settings.reconstruct_after_bucket,
        )
        for name in ("local", "r2", "r2-test")
    }
    assert waits == {"local": (5, 5, 5), "r2": (120, 3600, 86400), "r2-test": (120, 3600, 86400)}


def test_the_transfer_settings_are_those_that_were_measured() -> None:
    settings = load_profile("r2").settings
    assert settings.part_size == 16 * 1024**2
    assert (settings.upload_workers, settings.hash_workers) == (8, None)


def test_the_sources_of_local_are_below_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / ".ursa" / "dagster"))
    sources = {source.name: source.path for source in load_profile("local").sources}
    assert sources == {"nas": tmp_path / ".ursa" / "nas", "usb": tmp_path / ".ursa" / "usb"}


def test_no_environment_variable_selects_a_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("URSA_PROFILE", "URSA_CONFIG", "PROFILE", "URSA_ENV"):
        monkeypatch.setenv(variable, "r2")
    with pytest.raises(ProfileInvalid, match="local, r2, r2-test"):
        load_profile(None)
    assert load_profile("r2-test").family == "test"


def test_a_profile_that_does_not_exist_is_refused_with_the_choices() -> None:
    with pytest.raises(ProfileInvalid) as refusal:
        load_profile("r3")
    assert "'r3'" in str(refusal.value)
    assert "'r2-test'" in str(refusal.value)


@pytest.mark.parametrize("name", ["../profiles/r2", "r2.yaml", "", "R2", "r2 "])
def test_a_profile_is_named_exactly_and_never_a_path(name: str) -> None:
    with pytest.raises(ProfileInvalid):
        load_profile(name)


def test_a_file_can_be_a_whole_profile(tmp_path: Path) -> None:
    profile = load_profile(None, written(tmp_path, own_profile(sources=[{"name": "usb", "path": "/media/usb"}])))
    assert (profile.name, profile.endpoint, profile.region) == ("own", "https://s3.example.org", "auto")
    assert profile.credentials["raw_rw"].secret_access_key == "op://Vault/raw_rw/secret"
    assert profile.sources[0].path == Path("/media/usb")


def test_a_file_overrides_single_fields_of_a_shipped_profile(tmp_path: Path) -> None:
    override = {"catalog_prefix": "ursa/staging-7", "settings": {"upload_workers": 2}, "buckets": {"raw": "other"}}
    profile, shipped = load_profile("r2", written(tmp_path, override)), load_profile("r2")
    assert profile.catalog_prefix == "ursa/staging-7"
    assert profile.settings == shipped.settings.model_copy(update={"upload_workers": 2})
    assert (profile.buckets.raw, profile.buckets.assets) == ("other", shipped.buckets.assets)
    assert (profile.family, profile.credentials) == (shipped.family, shipped.credentials)


def test_an_override_replaces_the_sources_as_a_whole(tmp_path: Path) -> None:
    override = {"sources": [{"name": "drive", "path": "/mnt/drive"}]}
    assert [source.name for source in load_profile("r2", written(tmp_path, override)).sources] == ["drive"]


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:8333", "http://localhost:9000", "http://[::1]:9000"])
def test_plain_http_is_for_this_machine_only(endpoint: str, tmp_path: Path) -> None:
    assert load_profile(None, written(tmp_path, own_profile(endpoint=endpoint))).endpoint == endpoint


def test_a_slash_after_the_endpoint_does_no_harm(tmp_path: Path) -> None:
    path = written(tmp_path, own_profile(endpoint="https://s3.example.org/"))
    assert load_profile(None, path).endpoint == "https://s3.example.org"


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://s3.example.org",
        "http://127.0.0.1.example.org",
        "http://10.0.0.7:9000",
        f"https://user:{SECRET}@s3.example.org",
        f"https://:{SECRET}@s3.example.org",
        f"https://s3.example.org/?token={SECRET}",
        f"https://s3.example.org/#{SECRET}",
        "https://s3.example.org/bucket",
        "https://s3.example.org:port",
        "https://s3.example.org:99999",
        "https://s3.exa\nmple.org",
        "https://s3 example.org",
        f"https://[{SECRET}",
        "ftp://s3.example.org",
        "s3.example.org",
        "https://",
        "op://Vault",
        "op://Vault//field",
        "",
        None,
    ],
)
def test_any_other_endpoint_is_refused_without_repeating_it(endpoint: str | None, tmp_path: Path) -> None:
    with pytest.raises(ProfileInvalid) as refusal:
        load_profile(None, written(tmp_path, own_profile(endpoint=endpoint)))
    assert "endpoint" in str(refusal.value)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("literal", [SECRET, f" op://{SECRET}", f"op:/{SECRET}/a/b", f"op://{SECRET}", 12345, [SECRET]])
@pytest.mark.parametrize("field", ["access_key_id", "secret_access_key", "session_token"])
def test_a_secret_written_into_a_profile_is_refused_without_repeating_it(
    field: str, literal: object, tmp_path: Path
) -> None:
    document = own_profile()
    document["credentials"]["raw_rw"][field] = literal
    with pytest.raises(ProfileInvalid) as refusal:
        load_profile(None, written(tmp_path, document))
    assert refusal.value.place is not None
    assert refusal.value.place.endswith(f"credentials.raw_rw.{field}")
    assert SECRET not in f"{refusal.value!s}{refusal.value!r}{refusal.value.__cause__}{refusal.value.__dict__}"
    assert "12345" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"bukets": {}}, "bukets"),
        ({"buckets": {"raw": "a-b-c", "assets": "d-e-f", "hot": "x"}}, "buckets.hot"),
        ({"buckets": {"raw": "a-b-c"}}, "buckets.assets"),
        ({"buckets": {"raw": "A_B", "assets": "d-e-f"}}, "buckets.raw"),
        ({"buckets": {"raw": "a/b", "assets": "d-e-f"}}, "buckets.raw"),
        ({"buckets": "constellation-data"}, "buckets"),
        ({"family": "prod"}, "family"),
        ({"name": "two words"}, "name"),
        ({"name": ["own"]}, "name"),
        ({"store": "minio"}, "store"),
        ({"catalog_prefix": "elsewhere/catalog"}, "catalog_prefix"),
        ({"catalog_prefix": "ursa/catalog/"}, "catalog_prefix"),
        ({"sources": {"nas": "/mnt"}}, "sources"),
        ({"sources": [{"name": "n a s", "path": "/mnt"}]}, "sources.0.name"),
        ({"sources": [{"name": "nas"}]}, "sources.0.path"),
        ({"settings": {"quiet_period": "soon"}}, "settings.quiet_period"),
        ({"settings": {"quiet_period": -1}}, "settings.quiet_period"),
        ({"settings": {"part_size": 1}}, "settings.part_size"),
        ({"settings": {"upload_workers": 0}}, "settings.upload_workers"),
        ({"settings": {"upload_worker": 4}}, "settings.upload_worker"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_the_field_as_its_place(
    change: dict[str, Any], place: str, tmp_path: Path
) -> None:
    path = written(tmp_path, own_profile(**change))
    with pytest.raises(ProfileInvalid) as refusal:
        load_profile(None, path)
    assert refusal.value.place == f"{path}: {place}"


def test_a_role_that_has_no_credential_is_named(tmp_path: Path) -> None:
    document = own_profile()
    del document["credentials"]["raw_rw"]
    with pytest.raises(ProfileInvalid, match="raw_rw"):
        load_profile(None, written(tmp_path, document))


def test_an_unknown_role_is_refused(tmp_path: Path) -> None:
    document = own_profile()
    document["credentials"]["admin"] = document["credentials"]["raw_rw"]
    with pytest.raises(ProfileInvalid, match="admin"):
        load_profile(None, written(tmp_path, document))


def test_two_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    sources = [{"name": "nas", "path": "/a"}, {"name": "nas", "path": "/b"}]
    with pytest.raises(ProfileInvalid, match="same name"):
        load_profile(None, written(tmp_path, own_profile(sources=sources)))


def test_the_embedded_store_takes_no_endpoint_and_no_credentials(tmp_path: Path) -> None:
    with pytest.raises(ProfileInvalid, match="embedded"):
        load_profile("local", written(tmp_path, {"endpoint": "https://s3.example.org"}))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "mapping"),
        ("- a\n- b\n", "mapping"),
        ("name: [1,\nfamily: }", "line 2"),
        (f"name: !!python/object/apply:os.system ['echo {SECRET}']", "YAML"),
        ("name: *nowhere", "line 1"),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_refused_with_its_line(text: str, told: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ProfileInvalid, match=told) as refusal:
        load_profile("r2", path)
    assert refusal.value.place == str(path)
    assert SECRET not in str(refusal.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProfileInvalid, match=r"absent\.yaml"):
        load_profile("r2", tmp_path / "absent.yaml")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileInvalid, match="cannot be read"):
        load_profile(None, path)


def test_a_profile_cannot_be_changed() -> None:
    profile = load_profile("r2")
    with pytest.raises(ValueError, match="frozen"):
        profile.name = "other"


def test_the_shipped_files_hold_references_only() -> None:
    shipped = [path for path in resources.files("ursa_pipelines.profiles").iterdir() if path.name.endswith(".yaml")]
    assert {path.name for path in shipped} == {"local.yaml", "r2.yaml", "r2-test.yaml"}
    for path in shipped:
        Profile.model_validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("line", ["30 1 * * *", "*/15 0-5,22 * 1-6 1", "0 2 1 * *"])
def test_the_nightly_reconciliation_may_be_moved(line: str, tmp_path: Path):
    assert load_profile("local").settings.reconcile_at == "0 2 * * *"
    path = written(tmp_path, own_profile(settings={"reconcile_at": line}))

    assert load_profile(None, path).settings.reconcile_at == line


@pytest.mark.parametrize(
    "line",
    [
        "",
        "2",
        "0 2 * *",
        "0 2 * * * *",
        "60 2 * * *",
        "0 24 * * *",
        "0 2 0 * *",
        "5-1 2 * * *",
        "*/0 2 * * *",
        "@daily",
    ],
)
def test_what_is_no_cron_line_is_refused(line: str, tmp_path: Path):
    with pytest.raises(ProfileInvalid, match="reconcile_at: is not a cron line"):
        load_profile(None, written(tmp_path, own_profile(settings={"reconcile_at": line})))


def test_nothing_leaves_a_source_unless_a_file_says_so(tmp_path: Path):
    for name in ("local", "r2", "r2-test"):
        release = load_profile(name).release
        assert (release.enabled, release.retention_days, release.grace_days) == (False, 30, 14)

    written(tmp_path, {"release": {"enabled": True, "grace_days": 60}})
    release = load_profile("r2", tmp_path / "own.yaml").release
    assert (release.enabled, release.retention_days, release.grace_days) == (True, 30, 60)


@pytest.mark.parametrize(
    "release",
    [{"retention_days": 0.5}, {"grace_days": 0}, {"grace_days": -1}, {"enabled": "perhaps"}, {"keep_days": 3}, True],
)
def test_a_release_without_a_day_of_waiting_is_refused_in_production(release: object, tmp_path: Path):
    written(tmp_path, {"release": release})

    with pytest.raises(ProfileInvalid, match="release"):
        load_profile("r2", tmp_path / "own.yaml")


def test_no_credential_stands_for_the_right_on_a_source(tmp_path: Path):
    keys = {"access_key_id": "op://V/I/id", "secret_access_key": "op://V/I/key"}
    written(tmp_path, {"credentials": {"source_rw": keys}})

    with pytest.raises(ProfileInvalid, match="source_rw"):
        load_profile("r2", tmp_path / "own.yaml")
