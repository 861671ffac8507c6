"""The import rules find what they are for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources that a test may spoil."""
    for package in ("hive_ray", "serve"):
        shutil.copytree(REPO / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    shutil.copy(REPO / "tests" / "import_contracts.py", tmp_path / "tests")
    shutil.copy(REPO / "pyproject.toml", tmp_path)
    return tmp_path


def broken(tree: Path) -> str:
    """What lint-imports reports, which must not be peace."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=tree, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("module", "line", "link"),
    [
        ("core/values.py", "import time", "hive_ray.core.values -> time"),
        ("core/values.py", "import asyncio", "hive_ray.core.values -> asyncio"),
        ("core/values.py", "import hive_ray.errors", "hive_ray.core.values -> hive_ray.errors"),
        ("graph/compiled.py", "import pyarrow", "hive_ray.graph.compiled -> pyarrow"),
        ("graph/compiled.py", "import ray", "hive_ray.graph.compiled -> ray"),
        ("errors.py", "import hive_ray.state", "hive_ray.errors -> hive_ray.state"),
    ],
)
def test_an_import_against_the_rules_is_named(tree: Path, module: str, line: str, link: str):
    """Purity, the homes of Ray and Arrow, and the direction of the planes are all held."""
    with (tree / "hive_ray" / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")

    assert link in broken(tree)
