"""JSON log lines on stderr, every one of them through the redaction.

structlog and the standard library's logging end in the same processors, so a line of a third-party
package is redacted like our own. The redaction runs after everything that adds text (context,
tracebacks) and right before the line is written: nothing can slip in behind it.

No line holds content: of an exception it tells type and place, not the message, which may quote what a
run is about. Messages belong to the run, sealed.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog
from structlog.typing import Processor

from hive_ray.config import Settings, resolve
from hive_ray.errors import ConfigError
from hive_ray.observe.redaction import redact, register_key_names, register_secrets

QUIET = ("httpx2", "httpcore2", "openai", "anthropic", "mcp", "asyncio", "urllib3")
"""Packages whose lines below WARNING would repeat every request."""

FACTS = ("run_id", "serial", "call", "cost_nanousd", "overrun_nanousd", "model")
"""What ``extra`` of a line of the standard library's logging may add to it."""
MOST_CAUSES = 8
"""Exceptions of one chain that are told."""


def configure(settings: Settings, component: str, stream: TextIO | None = None) -> None:
    """Send all logging of this process to one JSON stream.

    Args:
        component: who writes (``controller/0``, ``worker/tool/3``, ``serve``, ``cli``).
        stream: stderr unless given.
    """
    register_key_names(settings.observe.redact_keys)
    register_secrets(_keys(settings))
    before = _before_redaction(component)
    structlog.configure(
        processors=[*before, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_formatter(before))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.observe.log_level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)


def _keys(settings: Settings) -> Iterator[str]:
    """The keys that seal content, as text; those that cannot be read are reported where they are used."""
    with suppress(ConfigError):
        for reference in settings.keys.secret_references():
            yield resolve(reference)
    own = settings.own_key_file()
    with suppress(OSError, UnicodeDecodeError):
        if own is not None:
            yield own.read_text("ascii").strip()


def _before_redaction(component: str) -> list[Processor]:
    def named(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("component", component)
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        named,
    ]


def _formatter(before: list[Processor]) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(FACTS), *before],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.StackInfoRenderer(),
            tell_exception,
            redact_event,
            structlog.processors.JSONRenderer(),
        ],
    )


def tell_exception(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put in place of ``exc_info`` where the exception was raised and of what type, without its message."""
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else None
    if error is None and given:
        error = given[1] if isinstance(given, tuple) else sys.exception()
    if error is not None:
        event["exception"] = "\n".join(_causes(error))
    return event


def _causes(error: BaseException) -> list[str]:
    """The first cause comes first, as Python prints it."""
    told: list[str] = []
    last: BaseException | None = error
    while last is not None and len(told) < MOST_CAUSES:
        place = "".join(traceback.format_tb(last.__traceback__))
        told.insert(0, f"{place}{type(last).__module__}.{type(last).__qualname__}")
        last = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
    return told


def redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The structlog processor around ``redact``."""
    return cast("MutableMapping[str, Any]", redact(event))


get_logger = structlog.stdlib.get_logger
bound = structlog.contextvars.bound_contextvars
"""``with bound(request_id=…, run_id=…):`` every line inside carries them."""
