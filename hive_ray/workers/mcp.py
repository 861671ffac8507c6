"""MCP tool servers: one session for each server and process, started on first use.

A session lives in a task of its own, because the client must be closed where it was opened. A call
on a session that broke is repeated by the controller, never here: only it knows what may be repeated.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

import msgspec
import tenacity

from hive_ray.config import McpSettings, SecretRef, Settings
from hive_ray.core.failures import FailureKind
from hive_ray.observe.redaction import redact_text, register_secrets
from hive_ray.workers.context import KEY_PARAMETER
from hive_ray.workers.step_error import StepError
from hive_ray.workers.tools import ToolInfo

if TYPE_CHECKING:
    from mcp.client import Client
    from mcp_types import CallToolResult, Tool

START_TIMEOUT_S = 20.0
"""For a server to start and to shake hands."""
CONNECT_ATTEMPTS = 3
STDERR_LINES = 20
"""What is kept of a server's last words."""
IDLE_CHECK_S = 1.0
"""An HTTP session that was silent this long is asked for its tools before a call is trusted to it."""

UNVERIFIED = ("destructive", "unverified")
"""Tags of all tools of a server whose hints are not believed: the protocol takes a tool without hints for
destructive."""

Resolve = Callable[[SecretRef], str]


class McpSession:
    """One server: its task, its client, its tools."""

    def __init__(self, name: str, settings: McpSettings, resolve: Resolve, timeout_s: float) -> None:
        self.name = name
        self.settings = settings
        self.timeout_s = timeout_s
        self._resolve = resolve
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._client: Client | None = None
        self._tools: dict[str, Tool] = {}
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._used_at = 0.0

    @property
    def address(self) -> str:
        """The command or URL, as a person would look for it."""
        return self.settings.url or shlex.join(self.settings.command)

    async def tools(self) -> Mapping[str, Tool]:
        """What the server offers, asked once for each session.

        Raises:
            StepError: ``TOOL_UNAVAILABLE``: the server does not start.
        """
        await self._ready()
        return self._tools

    async def call(self, tool: str, arguments: Mapping[str, Any], idempotency_key: str) -> Any:
        """The tool's result as JSON.

        Raises:
            StepError: the tool failed, or the session broke during the call.
        """
        from mcp import MCPError

        client = await self._ready()
        meta = cast("Any", {"hive-ray/idempotency-key": idempotency_key})
        try:
            given = _with_key(self._tools.get(tool), arguments, idempotency_key)
            result = await client.call_tool(tool, given, self.timeout_s, meta=meta)
        except MCPError as error:
            raise await self._call_failed(tool, error) from error
        except _broken() as error:
            await self._drop()
            raise self._lost(tool, error) from error
        self._used_at = asyncio.get_running_loop().time()
        return _result(tool, result)

    async def close(self) -> None:
        async with self._lock:
            await self._drop()

    async def _ready(self) -> Client:
        async with self._lock:
            current = self._client
            if current is not None and await self._alive(current):
                return current
            await self._drop()
            retrying = tenacity.AsyncRetrying(
                stop=tenacity.stop_after_attempt(CONNECT_ATTEMPTS),
                wait=tenacity.wait_exponential_jitter(multiplier=0.2, max=2.0),
                # A command that cannot start now will not start in a second; a URL may.
                retry=tenacity.retry_if_exception(lambda _error: self.settings.url is not None),
                reraise=True,
            )
            client = await retrying(self._start)
            self._used_at = asyncio.get_running_loop().time()
            return client

    async def _alive(self, client: Client) -> bool:
        """A dead session must be noticed before a call, while nothing can have happened yet."""
        from mcp import MCPError

        if self._stop.is_set():
            return False
        silent_s = asyncio.get_running_loop().time() - self._used_at
        if self.settings.url is None or silent_s < IDLE_CHECK_S:
            # The end of a command's output tells that it is gone; a URL must be asked.
            return True
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await client.list_tools(cache_mode="bypass")
        except (MCPError, TimeoutError, *_broken()):
            return False
        return True

    async def _start(self) -> Client:
        self._stop = asyncio.Event()
        self._stderr.clear()
        opened: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(opened, self._stop), name=f"mcp {self.name}")
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                client = await asyncio.shield(opened)
        except TimeoutError as error:
            await self._drop()
            raise self._unavailable(f"did not answer within {START_TIMEOUT_S:g} s") from error
        self._client = client
        return client

    async def _live(self, opened: asyncio.Future[Client], stop: asyncio.Event) -> None:
        """Open the session, keep it until it is to stop, and close it: all in one task."""
        from mcp.client import Client

        try:
            async with self._transport() as transport, Client(transport) as client:
                self._tools = {tool.name: tool async for tool in _listed(client)}
                opened.set_result(client)
                await stop.wait()
        except Exception as error:  # noqa: BLE001 - a transport may raise groups of anything
            if not opened.done():
                opened.set_exception(self._unavailable(_innermost(error)))
        finally:
            self._client = None

    @asynccontextmanager
    async def _transport(self) -> AsyncGenerator[Any]:
        from mcp.client.stdio import StdioServerParameters, stdio_client
        from mcp.client.streamable_http import streamable_http_client

        if self.settings.url is not None:
            yield streamable_http_client(self.settings.url)
            return
        program, *arguments = self.settings.command
        parameters = StdioServerParameters(command=program, args=arguments, env=self._environment())
        async with _tail(self._stderr) as errlog:
            yield _watched(stdio_client(parameters, errlog=errlog), self._stop)

    def _environment(self) -> dict[str, str]:
        environment: dict[str, str] = {}
        for key, value in self.settings.env.items():
            if isinstance(value, SecretRef):
                environment[key] = self._resolve(value)
                register_secrets([environment[key]])
            else:
                environment[key] = value
        return environment

    async def _drop(self) -> None:
        task, self._task, self._client = self._task, None, None
        if task is None:
            return
        self._stop.set()
        done, _ = await asyncio.wait([task], timeout=5.0)
        if not done:
            task.cancel()
            await asyncio.wait([task], timeout=5.0)

    async def _call_failed(self, tool: str, error: Any) -> StepError:
        from mcp_types import CONNECTION_CLOSED, INVALID_PARAMS, METHOD_NOT_FOUND, REQUEST_TIMEOUT

        match error.code:
            case code if code == CONNECTION_CLOSED:
                await self._drop()
                return self._lost(tool, error)
            case code if code == REQUEST_TIMEOUT:
                return StepError(FailureKind.TIMEOUT, f"tool {tool} did not end within {self.timeout_s:g} s")
            case code if code in (INVALID_PARAMS, METHOD_NOT_FOUND):
                return StepError(FailureKind.BAD_INPUT, f"tool {tool}: {error.message}", started=False)
            case _:
                return StepError(FailureKind.TOOL_ERROR, f"tool {tool}: {error.message}")

    def _lost(self, tool: str, error: BaseException) -> StepError:
        message = f"MCP server {self.name} ({self.address}) broke off during {tool}: {_innermost(error)}"
        return StepError(FailureKind.TOOL_UNAVAILABLE, message + self._last_words(), unknown=True)

    def _unavailable(self, why: str) -> StepError:
        message = f"MCP server {self.name} ({self.address}) does not start: {why}"
        return StepError(
            FailureKind.TOOL_UNAVAILABLE, redact_text(message + self._last_words()), started=False
        )

    def _last_words(self) -> str:
        return "; its last lines: " + " | ".join(self._stderr) if self._stderr else ""


class McpTools:
    """All MCP servers of the configuration, by tool name.

    A tool is known by its own name, if only one server has it, and as ``server.tool``.
    """

    def __init__(self, settings: Settings, resolve: Resolve) -> None:
        default_s = settings.timeouts.tool_s
        self._sessions = {
            name: McpSession(name, server, resolve, server.timeout_s or default_s)
            for name, server in settings.tools.mcp.items()
        }

    async def call(self, name: str, arguments: Mapping[str, Any], idempotency_key: str) -> Any:
        session, tool = await self._find(name)
        return await session.call(tool.name, arguments, idempotency_key)

    async def info(self, name: str) -> ToolInfo:
        session, tool = await self._find(name)
        return _info(name, tool, session)

    async def describe(self) -> list[ToolInfo]:
        """Every tool of every server, under both its names where both are its own.

        Raises:
            StepError: a server does not start.
        """
        servers = {s.name: await s.tools() for s in self._sessions.values()}
        counts: dict[str, int] = {}
        for tools in servers.values():
            for tool in tools:
                counts[tool] = counts.get(tool, 0) + 1
        found: list[ToolInfo] = []
        for server, tools in servers.items():
            for tool in tools.values():
                names = [tool.name] * (counts[tool.name] == 1) + [f"{server}.{tool.name}"]
                found += [_info(name, tool, self._sessions[server]) for name in names]
        return sorted(found, key=lambda info: info.name)

    async def close(self) -> None:
        await asyncio.gather(*(session.close() for session in self._sessions.values()))

    async def _find(self, name: str) -> tuple[McpSession, Tool]:
        server, _, bare = name.partition(".")
        if bare and server in self._sessions:
            tool = (await self._sessions[server].tools()).get(bare)
            if tool is not None:
                return self._sessions[server], tool
        owners: list[tuple[McpSession, Tool]] = []
        down: StepError | None = None
        for session in self._sessions.values():
            try:
                tools = await session.tools()
            except StepError as error:
                # Another server may have the tool; this one's trouble matters only if none has.
                down = error
                continue
            if name in tools:
                owners.append((session, tools[name]))
        return self._only(name, owners, down)

    def _only(
        self, name: str, owners: list[tuple[McpSession, Tool]], down: StepError | None
    ) -> tuple[McpSession, Tool]:
        if len(owners) == 1:
            return owners[0]
        if owners:
            choices = " or ".join(f"{session.name}.{name}" for session, _ in owners)
            message = f"tool {name!r} is offered by several MCP servers; write {choices}"
            raise StepError(FailureKind.BAD_INPUT, message, started=False)
        if down is not None:
            raise down
        servers = ", ".join(self._sessions) or "none"
        message = f"this worker has no tool {name!r}; neither a Python tool nor one of MCP servers: {servers}"
        raise StepError(FailureKind.TOOL_UNAVAILABLE, message, started=False)


async def describe(settings: Settings, resolve: Resolve) -> list[ToolInfo]:
    """Start every configured MCP server, ask for its tools, and end it again.

    Raises:
        StepError: ``TOOL_UNAVAILABLE`` naming the server that does not start.
    """
    tools = McpTools(settings, resolve)
    try:
        return await tools.describe()
    finally:
        await tools.close()


def _info(name: str, tool: Tool, session: McpSession) -> ToolInfo:
    idempotent, tags = False, UNVERIFIED
    if session.settings.allow_annotations:
        idempotent, tags = _hints(tool)
    timeout_us = round(session.timeout_s * 1e6)
    schema = _without_key(tool.input_schema)
    return ToolInfo(name, tool.description or "", schema, idempotent, timeout_us, tags, "tool")


def _takes_key(schema: Mapping[str, Any]) -> bool:
    return KEY_PARAMETER in (schema.get("properties") or {})


def _with_key(tool: Tool | None, arguments: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The arguments, with the key of the call where the tool has a parameter for it."""
    own = {KEY_PARAMETER: key} if tool is not None and _takes_key(tool.input_schema) else {}
    return {**arguments, **own}


def _without_key(schema: dict[str, Any]) -> dict[str, Any]:
    """What a model is shown: the key is not its to give."""
    if not _takes_key(schema):
        return schema
    properties = {name: one for name, one in schema["properties"].items() if name != KEY_PARAMETER}
    required = [name for name in schema.get("required", ()) if name != KEY_PARAMETER]
    return {**schema, "properties": properties, "required": required}


def _hints(tool: Tool) -> tuple[bool, tuple[str, ...]]:
    """What a trusted server says of a tool; a missing hint is read as the protocol defines it."""
    hints = tool.annotations
    read_only = bool(hints and hints.read_only_hint)
    idempotent = read_only or bool(hints and hints.idempotent_hint)
    destructive = not read_only and (hints is None or hints.destructive_hint is not False)
    return idempotent, ("destructive",) if destructive else ()


async def _listed(client: Client) -> AsyncIterator[Tool]:
    cursor: str | None = None
    for _ in range(100):
        page = await client.list_tools(cursor=cursor)
        for tool in page.tools:
            yield tool
        cursor = page.next_cursor
        if cursor is None:
            return


def _result(tool: str, result: CallToolResult) -> Any:
    """Structured content if there is some, else the text; JSON in a text is given as JSON."""
    texts = [block.text for block in result.content if block.type == "text"]
    if result.is_error:
        raise StepError(FailureKind.TOOL_ERROR, f"tool {tool}: {' '.join(texts) or 'failed without a word'}")
    if result.structured_content is not None:
        return result.structured_content
    if len(texts) == len(result.content):
        return _text(texts[0]) if len(texts) == 1 else "\n".join(texts)
    return [block.model_dump(mode="json", by_alias=True, exclude_none=True) for block in result.content]


def _text(text: str) -> Any:
    if text[:1] in ("{", "["):
        with suppress(msgspec.DecodeError):
            return msgspec.json.decode(text)
    return text


def _broken() -> tuple[type[Exception], ...]:
    """What a transport raises when the other side is gone."""
    import anyio
    import httpx2

    return (
        anyio.ClosedResourceError,
        anyio.BrokenResourceError,
        anyio.EndOfStream,
        httpx2.HTTPError,
        OSError,
    )


def _innermost(error: BaseException) -> str:
    """The first real reason inside groups of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return f"{type(error).__name__}: {error}"


@asynccontextmanager
async def _watched(transport: Any, ended: asyncio.Event) -> AsyncGenerator[Any]:
    """The same transport; sets ``ended`` when the server's output is at its end."""
    async with transport as (reading, writing):
        yield _WatchedStream(reading, ended), writing


class _WatchedStream:
    """A transport's read stream that tells when it ends."""

    def __init__(self, stream: Any, ended: asyncio.Event) -> None:
        self._stream = stream
        self._ended = ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __aiter__(self) -> _WatchedStream:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except StopAsyncIteration:
            self._ended.set()
            raise

    async def __aenter__(self) -> _WatchedStream:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._stream.__aexit__(*error)


@asynccontextmanager
async def _tail(lines: deque[str]) -> AsyncGenerator[Any]:
    """A file that a child process may write its stderr to; its last lines end in ``lines``."""
    reading, writing = os.pipe()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=65536)
    pipe = os.fdopen(reading, "rb", 0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    task = asyncio.create_task(_keep(reader, lines))
    file = os.fdopen(writing, "w")
    try:
        yield file
    finally:
        file.close()
        await asyncio.wait([task], timeout=1.0)
        transport.close()
        task.cancel()


async def _keep(reader: asyncio.StreamReader, lines: deque[str]) -> None:
    while True:
        try:
            line = await reader.readline()
        except ValueError:
            # Longer than the reader's limit: dropped, the next line is read again.
            continue
        if not line:
            return
        lines.append(redact_text(line.decode("utf-8", "replace").rstrip()))
