"""The wheel holds all that a node of a cluster needs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

REPO = Path(__file__).parents[1]
VERSION = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["project"]["version"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    argv = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(argv, cwd=REPO, check=True, capture_output=True, timeout=60)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_ships_both_packages_and_nothing_else(wheel: Path):
    """``hive_ray`` and ``serve`` with every file that git tracks in them; no tests, no benchmarks."""
    tracked = subprocess.run(
        ["git", "ls-files", "hive_ray", "serve"], cwd=REPO, check=True, capture_output=True, text=True
    ).stdout.split()

    names = ZipFile(wheel).namelist()

    assert set(tracked) <= set(names)
    assert {name.split("/")[0] for name in names} == {"hive_ray", "serve", f"hive_ray-{VERSION}.dist-info"}


def test_the_wheel_works_where_it_is_installed(wheel: Path, tmp_path: Path):
    """Installed in another environment, far from the checkout, both packages load from there."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, timeout=60)

    script = "import serve, hive_ray.config as c; print(serve.__file__, c.__file__, c.load().environment)"
    # The dependencies are borrowed: PYTHONPATH reads no .pth file, so the checkout stays out of sight.
    env = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    shown = subprocess.run(
        [python, "-c", script], cwd=tmp_path, env=env, check=True, capture_output=True, text=True, timeout=60
    ).stdout.split()

    assert all(str(tmp_path / "env") in place for place in shown[:2])
    assert shown[2] == "local"
    assert (tmp_path / "env" / "bin" / "hive-ray").exists()
