"""``hive.yaml`` becomes frozen settings; the only reader of the environment.

Every key stands here once, with its default and its meaning; ``docs/configuration.md`` is generated from
these classes. Secrets are references, never values. Nothing here starts, connects or writes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from urllib.parse import unquote, urlsplit

import yaml
from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from hive_ray.config_approvals import ApprovalsSettings
from hive_ray.config_auth import AuthSettings
from hive_ray.config_base import Name, Secret, SecretRef, Section, TextOrSecret, absolute, refuse
from hive_ray.config_breakers import BreakerName, BreakerSettings
from hive_ray.config_budgets import (
    AccountName,
    BudgetSettings,
    RatedName,
    RateSettings,
    RunningName,
    SharesSettings,
    Usd,
)
from hive_ray.config_faults import faults_of
from hive_ray.config_hooks import HooksSettings
from hive_ray.config_ladders import LadderSettings
from hive_ray.config_policies import PoliciesSettings, named, with_files
from hive_ray.config_retries import RetriesSettings
from hive_ray.errors import ConfigError, Fault

CONFIG_VARIABLE = "HIVE_RAY_CONFIG"
"""Environment variable that names the configuration file when no option does."""

API_KEY_VARIABLE = "HIVE_RAY_API_KEY"
"""Holds the API key of whoever calls. It is taken out of what an installation is started with."""
TEAM_VARIABLE = "HIVE_RAY_TEAM"

_MIB = 1 << 20
_NANO = Decimal(10) ** 9
_DAY_S = 86_400.0
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)


UsdPerMtok = Annotated[Decimal, Field(ge=0, decimal_places=9)]


class StateSettings(Section):
    """Where runs are kept."""

    url: str = ""
    """Object store: `file:///absolute/folder`, `s3://bucket/prefix`, `gs://…`, `az://…`.
    By default the folder `.hive/state` next to `hive.yaml`."""
    shared: bool = False
    """A `file:` folder is mounted on every node of the cluster; without it, several nodes refuse it."""
    park_after_s: NonNegativeFloat = 60.0
    """Seconds that a run must wait unchanged before it leaves memory; it comes back when it is needed."""
    options: Mapping[str, TextOrSecret] = {}
    """What the object store's client needs beyond the URL: `endpoint`, `region`, credentials by reference."""

    @field_validator("url")
    @classmethod
    def _has_scheme(cls, url: str) -> str:
        if url and not re.match(r"(file|s3|gs|az|memory)://.", url):
            refuse("is not the URL of a store", "write file:///folder, s3://bucket/prefix, gs://… or az://…")
        return url

    @field_validator("options")
    @classmethod
    def _no_literal_secrets(cls, options: Mapping[str, str | SecretRef]) -> Mapping[str, str | SecretRef]:
        return _without_literal_secrets(options)


class VaultSettings(Section):
    """A key in the transit engine of HashiCorp Vault or OpenBao."""

    url: Annotated[str, StringConstraints(pattern=r"^https?://.")]
    """Address of the server, without `/v1`."""
    key: Name
    """Name of the transit key."""
    token: Secret
    """Reference to a token that may use it. It is read at each use: renew it in its file."""
    mount: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]*$")] = "transit"
    """Path at which the transit engine is mounted."""
    timeout_s: PositiveFloat = 10.0
    """Seconds for one call, further tries included."""
    ca_file: str = ""
    """Certificates to trust; by default the system's."""

    @field_validator("ca_file")
    @classmethod
    def _absolute_file(cls, path: str, info: ValidationInfo) -> str:
        return absolute(path, info) if path else path


class KeysSettings(Section):
    """The key that seals all content at rest. Keep a copy of it: without it no content can be read."""

    key: Secret | None = None
    """Reference to a key of 256 bits, as 64 hexadecimal digits or base64 (`openssl rand -hex 32`). A state in
    a `file:` folder has one by itself: `../keys/<folder>.key` beside it, made by the first `up`."""
    vault: VaultSettings | None = None
    """Let Vault hold the key instead."""
    old_keys: tuple[Secret, ...] = ()
    """Earlier keys, for reading. After `hive-ray keys rotate` nothing needs them any more."""
    old_vaults: tuple[VaultSettings, ...] = ()
    """Earlier keys in Vault, for reading."""
    erase_within_s: NonNegativeFloat = 60.0
    """Seconds after the end of a run at which the key of its conversation is erased at latest."""

    @model_validator(mode="after")
    def _one_key(self) -> KeysSettings:
        if self.key is not None and self.vault is not None:
            refuse("key and vault at a time", "keep one; the earlier one goes to old_keys or old_vaults")
        return self

    def secret_references(self) -> list[SecretRef]:
        """Every reference in this section."""
        return list(_references(self))


class RetentionSettings(Section):
    """For how long history is kept."""

    default_days: NonNegativeInt = 0
    """Days for which the events and summaries of a team are kept; 0 keeps them for ever."""
    teams: Mapping[str, NonNegativeInt] = {}
    """The same for some teams by name."""


class WorkersSettings(Section):
    """How many worker actors a pool has."""

    min: PositiveInt = 1
    """Workers that are always there."""
    max: PositiveInt = 1
    """Workers at most."""

    @model_validator(mode="after")
    def _ordered(self) -> WorkersSettings:
        if self.max < self.min:
            refuse(f"max {self.max} is below min {self.min}", "write max >= min")
        return self


PoolKind = Literal["function", "tool", "llm"]
DEFAULT_SLOTS: Mapping[PoolKind, int] = {"function": 64, "tool": 32, "llm": 64}


class PoolSettings(Section):
    """A pool: workers of one kind, and what Ray gives each of them."""

    kind: PoolKind
    """What its workers run: `function`, `tool` or `llm`. The pools named so have that kind by default."""
    num_cpus: NonNegativeFloat = 0.1
    """CPUs that Ray reserves for a worker. Above 0 keeps workers off a head node with 0 CPUs."""
    memory: NonNegativeInt = 0
    """Bytes that Ray reserves for a worker; 0 reserves none."""
    resources: Mapping[str, PositiveFloat] = {}
    """Custom Ray resources of a worker."""
    label_selector: Mapping[str, str] = {}
    """Ray node labels that a worker's node must have."""
    slots: PositiveInt
    """Attempts that one worker runs at a time. By default 64 for `function` and `llm`, 32 for `tool`."""
    workers: WorkersSettings = WorkersSettings()
    queue_limit: PositiveInt = 10_000
    """Steps that may wait for the pool; beyond, submissions are answered 429."""
    spare_slots: NonNegativeInt = 2
    """Slots of the pool that no team fills which has its share already, so that the next step of another one
    starts at once. It counts as soon as there is a second team; 0 keeps none."""
    requests_per_minute: NonNegativeInt = 0
    """Steps that may begin in a minute; 0 does not limit them."""
    tokens_per_minute: NonNegativeInt = 0
    """Tokens of LLM calls that may begin in a minute; 0 does not limit them."""
    usd_per_hour: Usd | None = None
    """US dollars that the pool may spend in an hour (of UTC)."""

    @model_validator(mode="before")
    @classmethod
    def _slots_by_kind(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {"slots": DEFAULT_SLOTS.get(data.get("kind", ""), 1), **data}


class ModelSettings(Section):
    """A model that graphs may name."""

    provider: Literal["openai", "anthropic", "openai-compatible"]
    """Which protocol the endpoint speaks: `openai`, `anthropic` or `openai-compatible`."""
    model: Annotated[str, StringConstraints(min_length=1)]
    """The provider's name of the model."""
    base_url: Annotated[str, StringConstraints(pattern=r"^https?://.")] | None = None
    """The endpoint; required for `openai-compatible`."""
    api_key: Secret | None = None
    """Reference to the key: `env:NAME` or `file:PATH`."""
    input_usd_per_mtok: UsdPerMtok | None = None
    """US dollars for a million input tokens. Without prices the bundled list is asked; 0 is a price."""
    output_usd_per_mtok: UsdPerMtok | None = None
    """US dollars for a million output tokens."""
    cached_input_usd_per_mtok: UsdPerMtok | None = None
    """US dollars for a million input tokens read from the provider's cache; by default as other input."""
    cache_write_usd_per_mtok: UsdPerMtok | None = None
    """US dollars for a million input tokens written to that cache; by default as other input."""
    max_tokens: PositiveInt = 1024
    """Output tokens at most in one call."""
    timeout_s: PositiveFloat | None = None
    """Seconds for one call; by default `timeouts.llm_s`."""
    temperature: NonNegativeFloat | None = None
    """Sampling temperature; by default the provider's."""
    requests_per_minute: NonNegativeInt = 0
    """Calls that may begin in a minute; 0 does not limit them."""
    tokens_per_minute: NonNegativeInt = 0
    """Tokens of calls that may begin in a minute; 0 does not limit them."""
    usd_per_hour: Usd | None = None
    """US dollars that the model may cost in an hour (of UTC)."""
    context_tokens: PositiveInt | None = None
    """Size of the model's context; input that cannot fit fails before it is sent."""

    @model_validator(mode="after")
    def _complete(self) -> ModelSettings:
        if self.provider == "openai-compatible" and self.base_url is None:
            refuse("openai-compatible without base_url", "add base_url, such as http://127.0.0.1:8080/v1")
        if (self.input_usd_per_mtok is None) != (self.output_usd_per_mtok is None):
            refuse("one price without the other", "give input_usd_per_mtok and output_usd_per_mtok")
        of_cache = (self.cached_input_usd_per_mtok, self.cache_write_usd_per_mtok)
        if of_cache != (None, None) and self.input_usd_per_mtok is None:
            refuse("a cached price without the others", "give input_usd_per_mtok and output_usd_per_mtok")
        return self

    @property
    def input_nanousd_per_mtok(self) -> int | None:
        return _nanousd(self.input_usd_per_mtok)

    @property
    def output_nanousd_per_mtok(self) -> int | None:
        return _nanousd(self.output_usd_per_mtok)

    @property
    def cached_input_nanousd_per_mtok(self) -> int | None:
        return _nanousd(self.cached_input_usd_per_mtok)

    @property
    def cache_write_nanousd_per_mtok(self) -> int | None:
        return _nanousd(self.cache_write_usd_per_mtok)


class McpSettings(Section):
    """One MCP tool server: a command that speaks on stdio, or a URL (streamable HTTP)."""

    command: tuple[str, ...] = ()
    """Program and arguments of a server on stdio."""
    url: Annotated[str, StringConstraints(pattern=r"^https?://.")] | None = None
    """Address of a server on streamable HTTP."""
    env: Mapping[str, TextOrSecret] = {}
    """Environment of the command; secrets by reference."""
    allow_annotations: bool = False
    """Believe the server's hints (`readOnlyHint`, `idempotentHint`, …) about its tools. Without it each of
    them is tagged `destructive` and `unverified`: its calls need approval unless a policy allows them."""
    timeout_s: PositiveFloat | None = None
    """Seconds for one call; by default `timeouts.tool_s`."""

    @model_validator(mode="after")
    def _one_transport(self) -> McpSettings:
        if bool(self.command) == (self.url is not None):
            refuse("needs exactly one of command and url", "keep one of them")
        if self.env and not self.command:
            refuse("env without command", "env is the environment of a command; remove it")
        return self

    @field_validator("env")
    @classmethod
    def _no_literal_secrets(cls, env: Mapping[str, str | SecretRef]) -> Mapping[str, str | SecretRef]:
        return _without_literal_secrets(env)


class ToolsSettings(Section):
    """Where tools and functions come from."""

    modules: tuple[str, ...] = ()
    """Importable modules, or paths of `.py` files as seen from `hive.yaml`."""
    mcp: Mapping[Name, McpSettings] = {}
    """MCP servers by name."""

    @field_validator("modules")
    @classmethod
    def _absolute_files(cls, modules: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return tuple(absolute(name, info) if name.endswith(".py") else name for name in modules)


class LimitsSettings(Section):
    """Bounds on what one run, or one controller, may hold."""

    max_input_bytes: PositiveInt = 8 * _MIB
    """Bytes of a run's input."""
    max_output_bytes: PositiveInt = 16 * _MIB
    """Bytes of a step's output."""
    artifact_bytes: PositiveInt = 32 * _MIB
    """Bytes of one artifact."""
    run_artifacts: PositiveInt = 256
    """Artifacts of one run, those of its child runs included."""
    run_artifact_bytes: PositiveInt = 256 * _MIB
    """Bytes of all artifacts of one run."""
    memory_value_bytes: PositiveInt = 256 * 1024
    """Bytes of one value of long-term memory."""
    memory_keys: PositiveInt = 10_000
    """Keys of long-term memory of one run, agent or team."""
    memory_read_bytes: PositiveInt = _MIB
    """Bytes of long-term memory that one step may read by its declarations."""
    live_runs: PositiveInt = 50_000
    """Runs that a controller holds in memory; beyond, submissions are answered 429."""
    max_steps: PositiveInt = 100
    """Node visits of a run whose graph says nothing."""
    max_turns: PositiveInt = 50
    """Turns of an `event_loop` node that says nothing."""
    idempotency_key_s: PositiveFloat = _DAY_S
    """Seconds for which an `Idempotency-Key` is remembered."""


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own, seen from nowhere else."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class HttpSettings(Section):
    """The HTTP listener."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 8700
    """Port to listen on."""
    ha_proxy: bool = True
    """Ray Serve behind HAProxy: about three times the submissions per second, one process more."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the listener."""
        return is_loopback(self.host)


class ObserveSettings(Section):
    """Logs, and what never appears in them."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level that is logged."""
    redact_keys: tuple[str, ...] = ()
    """Names of fields whose values are blotted out, besides the built-in ones."""


class TimeoutsSettings(Section):
    """What holds where a graph says nothing."""

    function_s: PositiveFloat = 30.0
    """Seconds for a function step."""
    tool_s: PositiveFloat = 60.0
    """Seconds for a tool call."""
    llm_s: PositiveFloat = 120.0
    """Seconds for an LLM call."""
    run_s: PositiveFloat = _DAY_S
    """Seconds from a run's submission to its deadline."""
    idle_client_s: PositiveFloat = _DAY_S
    """Seconds that a client-facing node waits for its client."""


class LeaseSettings(Section):
    """How long silence is borne."""

    term_s: PositiveFloat = 30.0
    """Seconds without contact after which a worker takes nothing new."""
    attach_grace_s: PositiveFloat = 20.0
    """Seconds that a recovered controller waits for the workers of its running attempts."""
    heartbeat_s: PositiveFloat = 5.0
    """Seconds between two heartbeats of a controller in the journal."""
    stale_s: PositiveFloat = 20.0
    """Age in seconds at which a heartbeat lets another cluster take over."""

    @model_validator(mode="after")
    def _ordered(self) -> LeaseSettings:
        if self.stale_s < 2 * self.heartbeat_s:
            refuse(f"stale_s {self.stale_s:g} is below two heartbeats", "write at least twice heartbeat_s")
        return self


class Settings(Section):
    """All of ``hive.yaml``."""

    environment: Name = "local"
    """Name of this installation; a state URL belongs to one environment."""
    state: StateSettings = StateSettings()
    retention: RetentionSettings = RetentionSettings()
    keys: KeysSettings = KeysSettings()
    pools: Mapping[Name, PoolSettings] = Field(default_factory=dict, validate_default=True)
    """Pools by name. `function`, `tool` and `llm` exist always; naming them changes their defaults."""
    models: Mapping[Name, ModelSettings] = {}
    """Models by the name that graphs use."""
    default_model: str = ""
    """Model of a node that names none; by default the only one, if there is only one."""
    tools: ToolsSettings = ToolsSettings()
    limits: LimitsSettings = LimitsSettings()
    budgets: Mapping[AccountName, BudgetSettings] = {}
    """Budgets by account: `team/acme`, `agent/acme/support`, `workflow/acme/refunds`, `pool/llm`,
    `model/small`, `tool/send_mail`; `team/*` is for every team that is not named."""
    retries: RetriesSettings = RetriesSettings()
    ladders: Mapping[Name, LadderSettings] = {}
    """Degrade ladders by the name of the model that graphs ask for."""
    breakers: Mapping[BreakerName, BreakerSettings] = {}
    """Breakers by `model/NAME` or `tool/NAME`; `model/*` and `tool/*` are for all that are not named."""
    rates: Mapping[RatedName, RateSettings] = {}
    """Rates by name: `pool/llm`, `model/small`, `tool/send_mail`, `tool/*`."""
    parallel_runs: Mapping[RunningName, PositiveInt] = {}
    """Runs that may be under way at a time, by `team/acme`, `agent/acme/support`, `team/*`; others queue."""
    shares: SharesSettings = SharesSettings()
    policies: PoliciesSettings = PoliciesSettings()
    approvals: ApprovalsSettings = ApprovalsSettings()
    hooks: HooksSettings = HooksSettings()
    http: HttpSettings = HttpSettings()
    auth: AuthSettings = AuthSettings()
    observe: ObserveSettings = ObserveSettings()
    timeouts: TimeoutsSettings = TimeoutsSettings()
    lease: LeaseSettings = LeaseSettings()

    @field_validator("pools", mode="before")
    @classmethod
    def _with_default_pools(cls, pools: Any) -> Any:
        if not isinstance(pools, Mapping):
            return pools
        named = {name: _with_kind(name, pool) for name, pool in pools.items()}
        return {kind: {"kind": kind} for kind in DEFAULT_SLOTS} | named

    @model_validator(mode="before")
    @classmethod
    def _only_model_is_default(cls, data: Any) -> Any:
        models = data.get("models") if isinstance(data, Mapping) else None
        if isinstance(models, Mapping) and len(models) == 1:
            return {"default_model": next(iter(models)), **data}
        return data

    @field_validator("default_model")
    @classmethod
    def _default_model_exists(cls, name: str, info: ValidationInfo) -> str:
        models = info.data.get("models")
        if name and models is not None and name not in models:
            refuse(f"no model {name!r}", f"one of models: {', '.join(models) or 'none is configured'}")
        return name

    def own_key_file(self) -> Path | None:
        """Where a state in a folder has its key unless another is configured: beside the folder."""
        parts = urlsplit(self.state.url)
        if parts.scheme != "file" or self.keys.key is not None or self.keys.vault is not None:
            return None
        folder = Path(unquote(parts.path))
        return folder.parent / "keys" / f"{folder.name}.key"

    def secret_references(self) -> set[str]:
        """Every reference in use, as written (``env:NAME``, ``file:/absolute/path``)."""
        return {str(ref) for ref in _references(self)}


def _with_kind(name: Any, pool: Any) -> Any:
    """A pool named like a kind is of that kind; ``llm:`` alone takes the defaults."""
    if name not in DEFAULT_SLOTS:
        return pool
    if pool is None:
        return {"kind": name}
    return {"kind": name, **pool} if isinstance(pool, Mapping) else pool


def _without_literal_secrets(values: Mapping[str, str | SecretRef]) -> Mapping[str, str | SecretRef]:
    for name, value in values.items():
        if isinstance(value, str) and value and _SECRET_NAME.search(name):
            refuse(f"{name} holds a literal value", f"write {name}: env:NAME or file:PATH")
    return values


def _nanousd(usd: Decimal | None) -> int | None:
    # Nine decimal places at most, so the product is a whole number.
    return None if usd is None else int(usd * _NANO)


def _references(value: Any) -> Iterator[SecretRef]:
    match value:
        case SecretRef():
            yield value
        case BaseModel():
            for _, inner in value:
                yield from _references(inner)
        case Mapping():
            for inner in value.values():
                yield from _references(inner)
        case tuple():
            for inner in cast("tuple[Any, ...]", value):
                yield from _references(inner)
        case _:
            pass


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read ``hive.yaml``.

    Without a path: the file that ``HIVE_RAY_CONFIG`` names, else ``hive.yaml`` in the current folder,
    else the defaults.

    Raises:
        ConfigError: names every fault with its key, or file, line and column.
    """
    file = path or locate(environ)
    if file is None:
        return _settings({}, Path.cwd(), "configuration")
    return _settings(read_yaml(file), file.resolve().parent, str(file))


def of_content(content: Mapping[str, Any]) -> Settings:
    """Settings of the content of a ``hive.yaml`` from elsewhere; relative paths stay as they are.

    Raises:
        ConfigError: as ``load``.
    """
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        raise ConfigError("configuration", faults_of(error, Settings)) from error


def locate(environ: Mapping[str, str] | None = None) -> Path | None:
    """The configuration file that holds when no option names one; ``None`` if there is none."""
    named = (os.environ if environ is None else environ).get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    here = Path("hive.yaml")
    return here if here.exists() else None


def api_key(environ: Mapping[str, str] | None = None) -> str:
    """The API key that the environment holds for calls to an installation, or nothing."""
    return (os.environ if environ is None else environ).get(API_KEY_VARIABLE, "").strip()


def acting_team(environ: Mapping[str, str] | None = None) -> str:
    """The team that an admin acts for, or nothing."""
    return (os.environ if environ is None else environ).get(TEAM_VARIABLE, "").strip()


def ray_address(environ: Mapping[str, str] | None = None) -> str:
    """Address of the Ray cluster that this process was started in (a Ray job), or nothing."""
    return (os.environ if environ is None else environ).get("RAY_ADDRESS", "")


def _settings(data: Mapping[str, Any], folder: Path, subject: str) -> Settings:
    data = with_files(data, folder, read_yaml)
    try:
        settings = Settings.model_validate(data, context={"folder": str(folder)})
    except ValidationError as error:
        raise ConfigError(subject, named(faults_of(error, Settings), data)) from error
    if settings.state.url:
        return settings
    state = settings.state.model_copy(update={"url": (folder / ".hive" / "state").as_uri()})
    return settings.model_copy(update={"state": state})


def read_yaml(file: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file; a key that stands twice is an error.

    Raises:
        ConfigError: names file, line and column.
    """
    try:
        data = yaml.load(file.read_text("utf-8"), Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else str(file)
        problem = f"is not YAML: {error.problem}"
        raise ConfigError(str(file), [Fault(place, problem, "mend the YAML there")]) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        remedy = "name a readable UTF-8 file"
        raise ConfigError(str(file), [Fault(str(file), f"cannot be read: {error}", remedy)]) from error
    if data is not None and not isinstance(data, dict):
        raise ConfigError(str(file), [Fault(str(file), "is not a mapping", "write key: value lines")])
    return data or {}


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys in silence; here the second is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def resolve(ref: SecretRef, environ: Mapping[str, str] | None = None) -> str:
    """The secret behind a reference; a file's trailing newline is not part of it.

    Raises:
        ConfigError: the variable is not set, or the file cannot be read.
    """
    if ref.scheme == "file":
        return _secret_file(ref)
    value = (os.environ if environ is None else environ).get(ref.name)
    if not value:
        fault = Fault(str(ref), "the environment variable is not set", f"set {ref.name} before starting")
        raise ConfigError("secrets", [fault])
    return value


def resolve_all(
    values: Mapping[str, str | SecretRef], environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Plain text as it is, references resolved: for an MCP server's environment, a store's options.

    Raises:
        ConfigError: as ``resolve``.
    """
    return {
        name: resolve(value, environ) if isinstance(value, SecretRef) else value
        for name, value in values.items()
    }


def _secret_file(ref: SecretRef) -> str:
    try:
        return Path(ref.name).read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        fault = Fault(str(ref), f"cannot be read: {type(error).__name__}", "write the secret into that file")
        raise ConfigError("secrets", [fault]) from error
