"""cluster.yaml and serve/config.yaml are valid, seen without a cloud and without a cluster."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import ray.autoscaler
import yaml
from pydantic import BaseModel, ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

REPO = Path(__file__).parents[1]


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((REPO / name).read_text("utf-8"))


def validate_cluster(config: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(config)))
    # The one section that Ray's schema leaves open although it lists its fields.
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text("utf-8"))
    closed = {**schema["properties"]["provider"], "additionalProperties": False}
    jsonschema.validate(config["provider"], closed)


def test_the_cluster_file_is_valid():
    """Ray's own validation, provider defaults filled in, accepts cluster.yaml."""
    validate_cluster(read("cluster.yaml"))


@pytest.mark.parametrize("path", [(), ("available_node_types", "llm"), ("provider",)])
def test_an_unknown_field_in_the_cluster_file_is_refused(path: tuple[str, ...]):
    """A misspelled key is found before a cloud bills for it."""
    config = read("cluster.yaml")
    place = config
    for key in path:
        place = place[key]
    place["no_such_field"] = 1

    with pytest.raises(jsonschema.ValidationError, match="no_such_field"):
        validate_cluster(config)


def test_the_head_runs_no_steps():
    """0 CPUs on the head; the worker types offer integer resources and a label to select them by."""
    types = read("cluster.yaml")["available_node_types"]

    assert types["head"]["resources"] == {"CPU": 0}
    for kind in ("llm", "tool"):
        assert types[kind]["resources"][f"{kind}_worker"] >= 1
        assert types[kind]["labels"] == {"hive-pool": kind}


def test_the_cluster_file_starts_the_locked_ray():
    """The image's Ray is the one that the lock file pins: versions must not mix in a cluster."""
    lock = (REPO / "requirements" / "runtime.txt").read_text("utf-8")
    image = read("cluster.yaml")["docker"]["image"]

    version = image.split(":")[1].split("-")[0]

    assert f"ray=={version} " in lock.replace("[default,serve]", "")


def unknown_fields(data: object, model: type[BaseModel], place: str = "") -> Iterator[str]:
    """Paths that Ray's schema would drop in silence: it accepts any field."""
    if not isinstance(data, dict):
        return
    for key, value in data.items():
        field = model.model_fields.get(key)
        if field is None:
            yield f"{place}{key}"
        elif (inner := section(field.annotation)) is not None:
            items = value if isinstance(value, list) else [value]
            for item in items:
                yield from unknown_fields(item, inner, f"{place}{key}.")


def section(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, itself, optional or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := section(arg))), None)


def test_the_serve_file_is_valid():
    """Ray Serve's schema accepts serve/config.yaml, and knows every field in it."""
    config = read("serve/config.yaml")

    deployed = ServeDeploySchema.model_validate(config)

    assert list(unknown_fields(config, ServeDeploySchema)) == []
    assert [app.import_path for app in deployed.applications] == ["serve.app:app"]
    assert deployed.http_options.host == "127.0.0.1"


def test_an_unknown_field_in_the_serve_file_is_found():
    """Ray would accept it in silence, at the top, in a section and in a list."""
    config = read("serve/config.yaml")
    config["proxy_locatoin"] = "HeadOnly"
    config["http_options"]["prot"] = 1
    config["applications"][0]["import_paht"] = "x:y"

    ServeDeploySchema.model_validate(config)
    assert sorted(unknown_fields(config, ServeDeploySchema)) == [
        "applications.import_paht",
        "http_options.prot",
        "proxy_locatoin",
    ]


def test_a_wrong_value_in_the_serve_file_is_refused():
    """The schema checks values: a port is a number."""
    config = read("serve/config.yaml")
    config["http_options"]["port"] = "many"

    with pytest.raises(ValidationError, match="port"):
        ServeDeploySchema.model_validate(config)
