"""hive.yaml: defaults, refusals that name the key, and references to secrets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest

from hive_ray.config import ModelSettings, SecretRef, Settings, load, resolve, resolve_all
from hive_ray.config_retries import FailureName
from hive_ray.core.failures import FailureKind
from hive_ray.errors import ConfigError, Fault

LITERAL = "sk-not-a-real-key-0123456789"


def write(folder: Path, text: str) -> Path:
    file = folder / "hive.yaml"
    file.write_text(text, "utf-8")
    return file


def faults(folder: Path, text: str) -> dict[str, Fault]:
    """The faults of a file that must be refused, by place."""
    with pytest.raises(ConfigError) as refused:
        load(write(folder, text))
    return {fault.place: fault for fault in refused.value.faults}


def test_without_a_file_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No configuration is a configuration: three pools, a state folder here, no models."""
    monkeypatch.chdir(tmp_path)

    settings = load(None, {})

    assert settings.state.url == (tmp_path / ".hive" / "state").as_uri()
    assert {name: pool.slots for name, pool in settings.pools.items()} == {
        "function": 64,
        "tool": 32,
        "llm": 64,
    }
    assert (settings.lease.term_s, settings.lease.attach_grace_s) == (30, 20)
    assert (settings.limits.max_input_bytes, settings.limits.max_output_bytes) == (8 << 20, 16 << 20)
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 8700)
    assert settings.default_model == ""


def test_the_file_of_this_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """hive.yaml in the current folder is found without being named."""
    write(tmp_path, "environment: here")
    monkeypatch.chdir(tmp_path)

    assert load(None, {}).environment == "here"


def test_the_environment_may_name_the_file(tmp_path: Path):
    """HIVE_RAY_CONFIG names the file for processes that get no option."""
    file = write(tmp_path, "environment: there")

    assert load(None, {"HIVE_RAY_CONFIG": str(file)}).environment == "there"


def test_an_empty_file_is_the_defaults(tmp_path: Path):
    """A file of comments changes nothing; its folder holds the state."""
    settings = load(write(tmp_path, "# nothing yet\n"))

    assert settings.state.url == (tmp_path / ".hive" / "state").as_uri()


def test_naming_a_default_pool_changes_only_what_is_said(tmp_path: Path):
    """A pool named like a kind keeps that kind's other defaults, and the other pools stay."""
    settings = load(write(tmp_path, "pools: {llm: {workers: {max: 4}}, gpu: {kind: tool, slots: 1}, tool: }"))

    assert settings.pools["llm"].kind == "llm"
    assert (settings.pools["llm"].slots, settings.pools["llm"].workers.max) == (64, 4)
    assert sorted(settings.pools) == ["function", "gpu", "llm", "tool"]


def test_paths_are_seen_from_the_file(tmp_path: Path):
    """Tool files and secret files mean the same wherever the command is run."""
    text = """
    tools: {modules: [tools.py, pkg.tools]}
    models: {m: {provider: openai, model: x, api_key: "file:key"}}
    """
    settings = load(write(tmp_path, text))

    assert settings.tools.modules == (str(tmp_path / "tools.py"), "pkg.tools")
    assert settings.secret_references() == {f"file:{tmp_path / 'key'}"}


def test_the_only_model_is_the_default(tmp_path: Path):
    """With one model a graph need not name it; with two somebody must choose."""
    one = "models: {m: {provider: openai, model: x}}"
    two = "models: {m: {provider: openai, model: x}, n: {provider: openai, model: y}}"

    assert load(write(tmp_path, one)).default_model == "m"
    assert load(write(tmp_path, two)).default_model == ""


def test_prices_are_exact_nano_dollars():
    """0.15 dollars are 150,000,000 nano-dollars, not a float's idea of them."""
    model = ModelSettings.model_validate(
        {"provider": "openai", "model": "x", "input_usd_per_mtok": 0.15, "output_usd_per_mtok": "0.6"}
    )

    assert model.input_nanousd_per_mtok == 150_000_000
    assert model.output_nanousd_per_mtok == 600_000_000
    assert model.cached_input_nanousd_per_mtok is None


def test_settings_survive_the_way_to_another_process(tmp_path: Path):
    """As JSON they carry references, and come back equal."""
    text = """
    models: {m: {provider: openai, model: x, api_key: "env:K", input_usd_per_mtok: 1, output_usd_per_mtok: 2}}
    tools: {mcp: {t: {command: [run], env: {API_KEY: "env:T", MODE: fast}}}}
    """
    settings = load(write(tmp_path, text))

    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    assert settings.secret_references() == {"env:K", "env:T"}


@pytest.mark.parametrize(
    ("text", "place", "remedy"),
    [
        ("pool: {}", "pool", "pools"),
        ("pools: {llm: {slotz: 1}}", "pools.llm.slotz", "slots"),
        ("pools: {llm: {slots: many}}", "pools.llm.slots", "integer"),
        ("pools: {llm: {slots: 0}}", "pools.llm.slots", "greater than 0"),
        ("pools: {fast: {slots: 1}}", "pools.fast.kind", "add kind"),
        ("pools: {llm: 5}", "pools.llm", "mapping"),
        ("pools: {llm: {workers: {min: 3, max: 2}}}", "pools.llm.workers", "max >= min"),
        ("models: {m: {provider: opena, model: x}}", "models.m.provider", "'openai'"),
        ("models: {m: {provider: openai}}", "models.m.model", "add model"),
        ("models: {m: {provider: openai-compatible, model: x}}", "models.m", "add base_url"),
        ("models: {m: {provider: openai, model: x, base_url: nowhere}}", "models.m.base_url", "https?"),
        (
            "models: {m: {provider: openai, model: x, input_usd_per_mtok: 1}}",
            "models.m",
            "output_usd_per_mtok",
        ),
        (
            "models: {m: {provider: openai, model: x, input_usd_per_mtok: -1, output_usd_per_mtok: 1}}",
            "models.m.input_usd_per_mtok",
            "greater than or equal to 0",
        ),
        ("default_model: m", "default_model", "none is configured"),
        ("state: {url: /tmp/x}", "state.url", "file:///folder"),
        ("tools: {mcp: {t: {}}}", "tools.mcp.t", "keep one"),
        ("tools: {mcp: {t: {command: [a], url: http://x}}}", "tools.mcp.t", "keep one"),
        ("http: {port: 99999}", "http.port", "65535"),
        ("lease: {stale_s: 6}", "lease", "twice heartbeat_s"),
        ("observe: {log_level: loud}", "observe.log_level", "'DEBUG'"),
    ],
)
def test_a_wrong_key_is_named_with_what_would_be_right(tmp_path: Path, text: str, place: str, remedy: str):
    """Each refusal has the key's path and a remedy."""
    found = faults(tmp_path, text)

    assert list(found) == [place]
    assert remedy in found[place].remedy


def test_all_faults_are_named_at_once(tmp_path: Path):
    """Nobody mends a file one refusal at a time."""
    found = faults(tmp_path, "pool: {}\nhttp: {prt: 1, host: 5}\nlimits: {live_runs: x}")

    assert sorted(found) == ["http.host", "http.prt", "limits.live_runs", "pool"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("models:\n  m: {provider: [\n", ":3:1"),
        ("http: {port: 1}\nhttp: {port: 2}\n", ":2:1"),
        ("\tport: 1\n", ":1:1"),
    ],
)
def test_broken_yaml_is_named_by_line_and_column(tmp_path: Path, text: str, where: str):
    """A syntax error, and a key that stands twice, are found where they are."""
    assert list(faults(tmp_path, text)) == [f"{tmp_path / 'hive.yaml'}{where}"]


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path):
    """A list at the top level is not configuration."""
    (fault,) = faults(tmp_path, "- a\n- b\n").values()

    assert "mapping" in fault.problem


def test_a_missing_file_is_refused_by_name(tmp_path: Path):
    """A file that was asked for must be there."""
    file = tmp_path / "other.yaml"

    with pytest.raises(ConfigError, match=r"other\.yaml: cannot be read"):
        load(file)


@pytest.mark.parametrize(
    "text",
    [
        f"models: {{m: {{provider: openai, model: x, api_key: {LITERAL}}}}}",
        f"models: {{m: {{provider: openai, model: x, api_key: 'vault:{LITERAL}'}}}}",
        f"models: {{m: {{provider: openai, model: x, api_key: [{LITERAL}]}}}}",
        f"tools: {{mcp: {{t: {{command: [a], env: {{API_KEY: {LITERAL}}}}}}}}}",
        f"state: {{options: {{secret_access_key: {LITERAL}}}}}",
    ],
)
def test_a_literal_secret_is_refused_and_not_repeated(tmp_path: Path, text: str):
    """The message tells the two forms of a reference, and never the value."""
    with pytest.raises(ConfigError) as refused:
        load(write(tmp_path, text))

    assert "env:NAME or file:PATH" in str(refused.value)
    assert LITERAL not in f"{refused.value!r} {refused.value.__cause__}"


def test_a_reference_resolves_to_its_value(tmp_path: Path):
    """From the environment as it is; from a file without the newline that editors add."""
    (tmp_path / "key").write_text("abc\n", "utf-8")

    assert resolve(SecretRef("env", "K"), {"K": "xyz"}) == "xyz"
    assert resolve(SecretRef("file", str(tmp_path / "key"))) == "abc"


def test_text_stands_beside_references():
    """Only references are looked up: a mapping may hold both."""
    values = {"MODE": "fast", "API_KEY": SecretRef("env", "K")}

    assert resolve_all(values, {"K": "xyz"}) == {"MODE": "fast", "API_KEY": "xyz"}


@pytest.mark.parametrize("ref", [SecretRef("env", "NOT_SET"), SecretRef("file", "/no/such/file")])
def test_a_reference_to_nothing_is_refused_by_name(ref: SecretRef):
    """The error names the reference and how to give it a value."""
    with pytest.raises(ConfigError) as refused:
        resolve(ref, {})

    assert refused.value.faults[0].place == str(ref)
    assert refused.value.faults[0].remedy


def test_a_reference_shows_where_not_what(tmp_path: Path):
    """Neither repr nor str of settings can leak a value that they never hold."""
    text = "models: {m: {provider: openai, model: x, api_key: 'env:K'}}"

    shown = repr(load(write(tmp_path, text), {**os.environ, "K": LITERAL}))

    assert "SecretRef(env:K)" in shown
    assert LITERAL not in shown


def test_failure_kinds_in_the_configuration_are_those_that_there_are():
    """The closed set stands twice: the configuration may not know the core."""
    assert set(get_args(FailureName)) == {str(kind) for kind in FailureKind}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("breakers: {crm: {}}", "breakers.crm"),
        ("breakers: {tool/crm: {failures: [AWAY]}}", "breakers.tool/crm.failures.0"),
        ("ladders: {m: {rungs: []}}", "ladders.m"),
        ("ladders: {m: {rungs: [{budget_percent: 5}]}}", "ladders.m.rungs.0"),
        ("retries: {tool: {max_retries: -1}}", "retries.tool.max_retries"),
    ],
)
def test_what_cannot_be_about_failures_is_refused_by_key(tmp_path: Path, text: str, place: str):
    assert list(faults(tmp_path, text)) == [place]
