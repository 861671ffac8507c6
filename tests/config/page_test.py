"""docs/configuration.md tells what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from docs.generate_configuration import PAGE, page
from hive_ray.config import load


def test_the_page_is_the_one_that_the_settings_make():
    """A changed key changes the page: run ``python -m docs.generate_configuration``."""
    assert PAGE.read_text("utf-8") == page()


def test_every_key_has_a_meaning():
    """No row of a table ends in an empty cell."""
    assert re.findall(r"^.*\|  \|$", page(), re.MULTILINE) == []


def test_the_example_on_the_page_is_accepted(tmp_path: Path):
    """What a reader copies works."""
    (example,) = re.findall(r"```yaml\n(.*?)```", page(), re.DOTALL)
    file = tmp_path / "hive.yaml"
    file.write_text(example, "utf-8")

    assert load(file).environment == yaml.safe_load(example)["environment"]
