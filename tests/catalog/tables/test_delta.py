"""The tables are opened where the profile says, whatever the environment says; what fails is told without secrets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from deltalake.exceptions import CommitFailedError

from tests.catalog.tables.folded import PREFIX, rows, write
from tests.faults.proxy import Fault, LoseAnswer, Proxy, Refuse
from tests.lab import Lab
from ursa_pipelines.catalog.tables.delta import append, open_or_create, open_table
from ursa_pipelines.catalog.tables.fold import fold
from ursa_pipelines.catalog.tables.schemas import recordings_of
from ursa_pipelines.errors import CatalogError, StoreDenied, StoreUnavailable, UrsaError
from ursa_pipelines.objects.store import Bucket, Endpoint

_READER = """
import sys
import polars as pl
from ursa_pipelines.catalog.tables.delta import open_table
from ursa_pipelines.catalog.tables.fold import refold
from ursa_pipelines.objects.store import Bucket, Endpoint
bucket, url, access_key, secret_key = sys.argv[1:]
assets = Bucket(bucket, Endpoint(url, "auto", lambda: (access_key, secret_key, None)))
assert refold(assets, "ursa/catalog", by="test").entries == 1
assert pl.scan_delta(open_table(assets, "ursa/catalog", "recordings")).collect().height == 1
"""


def test_the_environment_does_not_decide_which_store_the_tables_are_in(lab: Lab, tmp_path: Path):
    write(lab, rows(0))
    with socket.create_server(("127.0.0.1", 0)) as trap:
        elsewhere = f"http://127.0.0.1:{trap.getsockname()[1]}"
        config = tmp_path / "config"
        config.write_text(
            f"[profile other]\nendpoint_url={elsewhere}\naws_access_key_id=a\naws_secret_access_key=b\nregion=eu-1\n"
        )
        poison = {
            **dict.fromkeys(("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_S3_ENDPOINT"), elsewhere),
            **dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_TOKEN"), "other"),
            **dict.fromkeys(("AWS_REGION", "AWS_DEFAULT_REGION"), "eu-1"),
            **dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), str(config)),
            **dict.fromkeys(("AWS_SKIP_SIGNATURE", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "AWS_S3_EXPRESS"), "true"),
            "AWS_REQUEST_PAYER": "true",
            **dict.fromkeys(("AWS_BUCKET", "AWS_BUCKET_NAME", "AWS_PROFILE"), "other"),
            "AWS_CONDITIONAL_PUT": "disabled",
        }

        done = subprocess.run(
            [sys.executable, "-c", _READER, *place(lab.assets)],
            env=os.environ | poison | {"PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=120,
        )

        assert done.returncode == 0, done.stderr
        trap.settimeout(0)
        with pytest.raises(BlockingIOError):
            trap.accept()


def test_a_table_that_is_not_there_is_none_and_a_version_that_is_not_there_an_error(lab: Lab):
    assert open_table(lab.assets, PREFIX, "recordings") is None
    assert open_table(lab.assets, PREFIX, "recordings", 3) is None
    open_or_create(lab.assets, PREFIX, "recordings")

    with pytest.raises(CatalogError, match="ursa catalog fold"):
        open_table(lab.assets, PREFIX, "recordings", 7)


def test_a_refused_credential_is_told_without_the_secret(lab: Lab):
    access_key, secret_key, _ = lab.assets._endpoint.secret()
    wrong = Bucket(lab.assets.name, Endpoint(lab.assets._endpoint.url, "auto", lambda: (access_key, "wr0ng", None)))
    open_or_create(lab.assets, PREFIX, "recordings")

    with pytest.raises(StoreDenied) as refused:
        open_table(wrong, PREFIX, "recordings")

    require_no_secret(refused.value, "wr0ng", secret_key)


def test_a_store_that_does_not_answer_is_unavailable(lab: Lab):
    access_key, secret_key, _ = lab.assets._endpoint.secret()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    away = Bucket(lab.assets.name, Endpoint(f"http://127.0.0.1:{port}", "auto", lambda: (access_key, secret_key, None)))

    with pytest.raises(StoreUnavailable) as failed:
        open_table(away, PREFIX, "recordings")

    require_no_secret(failed.value, secret_key)


def test_a_commit_survives_an_overloaded_store(lab: Lab, proxied_assets: Bucket, proxy: Proxy):
    table = open_or_create(proxied_assets, PREFIX, "recordings")
    proxy.fault = Refuse("PUT .*/_delta_log/", 503, "SlowDown", times=1)

    append(table, one_row(lab), 1, {})

    assert proxy.fault.refused == 1
    assert count(lab) == 1


def test_of_two_folds_that_append_blindly_at_once_only_one_commits(lab: Lab):
    open_or_create(lab.assets, PREFIX, "recordings")
    new = one_row(lab)
    for round_ in range(1, 6):
        tables = [open_table(lab.assets, PREFIX, "recordings") for _ in range(4)]
        start = threading.Barrier(len(tables))

        def commit(table, gen: int, start: threading.Barrier = start) -> bool:
            start.wait()
            try:
                append(table, new, gen, {})
            except CommitFailedError:
                return False
            return True

        with ThreadPoolExecutor(len(tables)) as pool:
            done = list(pool.map(commit, tables, range(10 * round_, 10 * round_ + 4)))

        assert sum(done) == 1
        assert count(lab) == round_


def test_a_commit_whose_answer_was_lost_is_there_once(lab: Lab, proxied_assets: Bucket, proxy: Proxy):
    table = open_or_create(proxied_assets, PREFIX, "recordings")
    proxy.fault = LoseAnswer("PUT .*/_delta_log/")

    try:
        append(table, one_row(lab), 1, {})
    except CommitFailedError:
        assert proxy.fault.lost

    proxy.fault = Fault()
    assert count(lab) == 1


def test_there_is_a_checkpoint_every_twenty_versions(lab: Lab):
    write(lab, rows(0))
    fold(lab.assets, PREFIX, by="test")
    table = open_table(lab.assets, PREFIX, "recordings")
    assert table is not None
    new = one_row(lab)

    while table.version() < 21:
        append(table, new, table.version(), {})

    keys = [info.key for info in lab.assets.list_objects(f"{PREFIX}/tables/recordings/_delta_log/")]
    assert [key.rpartition("/")[2] for key in keys if "checkpoint.parquet" in key] == [f"{19:020d}.checkpoint.parquet"]


def place(assets: Bucket) -> list[str]:
    access_key, secret_key, _ = assets._endpoint.secret()
    return [assets.name, assets._endpoint.url, access_key, secret_key]


def one_row(lab: Lab):
    return recordings_of([(write(lab, rows(0)), '"etag"')])


def count(lab: Lab) -> int:
    table = open_table(lab.assets, PREFIX, "recordings")
    assert table is not None
    return table.count()


def require_no_secret(error: UrsaError, *secrets: str) -> None:
    told = f"{error} {error!r} {error.__dict__} {error.__cause__} {error.__context__ and error.__suppress_context__}"
    assert not any(secret in told for secret in secrets)
