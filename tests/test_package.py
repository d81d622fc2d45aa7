"""What is published: the wheel and the source archive hold all of the package, and nothing that lay about."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.faults.canaries import Scanner, make_canary
from ursa_pipelines.orchestration import instance

ROOT = Path(__file__).parents[1]
PACKAGE = "ursa_pipelines"
CANARY = make_canary("what lies about")
PUBLISHED = ("README.md", "LICENSE", "pyproject.toml", ".gitignore", "docs", PACKAGE, "tests")
SECRETS = (".ursa/dagster/storage/runs.db", ".ursa/store/s3.json", "history/runs.db", ".venv/lib/site.py", "dist/a.whl")
_NOT_OURS = shutil.ignore_patterns("__pycache__", "*.pyc", ".ursa")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the source archive, built without a network where secrets lie about."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("built")
    for name in PUBLISHED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=_NOT_OURS)
        else:
            shutil.copy(ROOT / name, tree / name)
    for name in SECRETS:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(CANARY.value)
    (tree / PACKAGE / ".ursa").mkdir()
    (tree / PACKAGE / ".ursa" / "server.json").write_text(CANARY.value)
    environment = {**os.environ, "OP_SERVICE_ACCOUNT_TOKEN": CANARY.value}
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(out)], cwd=tree, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def test_the_wheel_holds_all_of_the_package_and_nothing_else(built: tuple[Path, Path]):
    with zipfile.ZipFile(built[0]) as wheel:
        files = {name for name in wheel.namelist() if ".dist-info/" not in name}
        metadata = next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith("/METADATA"))

    ours = (path for path in (ROOT / PACKAGE).rglob("*") if path.is_file())
    wanted = {path.relative_to(ROOT).as_posix() for path in ours if not {"__pycache__", ".ursa"} & set(path.parts)}
    assert files == wanted
    assert {Path(name).suffix for name in wanted} == {".py", ".yaml", ".typed", ".mp4", ".jinja"}
    assert " @ " not in metadata


def test_neither_archive_holds_what_lay_about(built: tuple[Path, Path]):
    scanner = Scanner([CANARY])

    assert [find for archive in built for find in scanner.in_bytes(archive.read_bytes(), archive.name)] == []
    with tarfile.open(built[1]) as sdist:
        names = sdist.getnames()
    assert not [name for name in names if ".ursa" in name or name.endswith(("uv.lock", ".lock"))]


def test_the_wheel_runs_where_it_is_installed(built: tuple[Path, Path], tmp_path: Path):
    home, uv = tmp_path / "installed", os.environ.get("UV") or shutil.which("uv")
    assert uv, "uv is what installs this project"
    _run(uv, "venv", "-q", "--offline", "--python", sys.executable, str(home))
    python = home / "bin" / "python"
    _run(uv, "pip", "install", "-q", "--offline", "--no-deps", "--python", str(python), str(built[0]))
    # What it depends on is taken from here. A path named in a .pth file is no place where further ones are read from,
    # so that an editable installation of the project itself is not found.
    site = Path(_run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")

    imported = _run(str(python), "-c", _LOOK, cwd=tmp_path).splitlines()
    told = _run(str(home / "bin" / "ursa"), "--help", cwd=tmp_path)

    assert [Path(one).is_relative_to(home) for one in imported] == [True] * 3, imported
    assert "Recordings off a NAS or USB drive" in told
    assert Path(imported[0]).name == "__init__.py"


_LOOK = f"""
import ursa_pipelines, {instance.__name__} as instance
from importlib.resources import files
from ursa_pipelines import DataInterface
from ursa_pipelines.profiles import load_profile
print(ursa_pipelines.__file__)
print(instance.__file__)
print(files(ursa_pipelines) / "profiles" / "r2.yaml")
for profile in ("local", "r2", "r2-test"):
    load_profile(profile)
"""


def _run(*command: str, cwd: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
