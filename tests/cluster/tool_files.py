"""Modules of tools, written into a test's folder as a user would write ``tools.py``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SUPPORT = '''
"""Tools of the support desk."""

import smtplib
import time
from email.message import EmailMessage
from pathlib import Path

from hive_ray.workers.tools import ToolContext, tool

PORT = {port}
GATE = Path("{gate}")


@tool(idempotent=True)
def search_knowledge_base(query: str) -> list[dict[str, str]]:
    """Search the articles."""
    return [{{"title": "Recover a run", "text": f"about {{query}}: resume it"}}]


@tool(idempotent=True)
def check_subscription_status(customer_id: str) -> dict[str, str]:
    """The plan of a customer."""
    return {{"customer": customer_id, "plan": "Pro", "status": "active"}}


@tool(idempotent=False, timeout_s=60)
def send_email(to: str, subject: str, body: str, context: ToolContext) -> str:
    """Send a mail; another call sends another mail."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "desk@example.com", to, subject
    mail["Message-ID"] = f"<{{context.idempotency_key.replace(':', '.')}}@example.com>"
    mail.set_content(body)
    while GATE.exists():
        time.sleep(0.02)
    with smtplib.SMTP("127.0.0.1", PORT, timeout=60) as server:
        server.send_message(mail)
    return "sent"
'''

GENERIC = '''
@tool(idempotent=True, name="{name}")
def {name}(**arguments: Any) -> dict[str, Any]:
    """Whatever it is asked, it answers."""
    return {{"tool": "{name}", "asked": arguments, "status": "ok"}}
'''


def support_tools(folder: Path, smtp_port: int, gate: Path | None = None) -> str:
    """The customer-support graph's tools; mails go to that port, and none leaves while ``gate`` exists."""
    closed = (gate or folder / "gate").as_posix()
    return write(folder / "support_tools.py", SUPPORT.format(port=smtp_port, gate=closed))


def generic_tools(folder: Path, names: Iterable[str]) -> str:
    """A tool under each name that takes and answers anything."""
    head = "from typing import Any\n\nfrom hive_ray.workers.tools import tool\n"
    return write(folder / "generic_tools.py", head + "".join(GENERIC.format(name=name) for name in names))


def write(file: Path, source: str) -> str:
    file.write_text(source, "utf-8")
    return str(file)


TROUBLE = '''
"""Steps that go wrong in every way that a step can."""

import asyncio
import os
import time
import urllib.request
from pathlib import Path
from typing import Any

from hive_ray.workers.tools import ToolContext, function

COUNTER = "{counter}"
PIDS = Path("{pids}")


@function(idempotent=True)
def count(item: str, context: ToolContext) -> dict[str, str]:
    """One effect at the counting server."""
    request = urllib.request.Request(COUNTER, item.encode(), {{"Idempotency-Key": context.idempotency_key}})
    urllib.request.urlopen(request, timeout=60).close()
    return {{"item": item + "'"}}


@function(idempotent=True)
def raise_anything(name: str) -> dict[str, str]:
    raise {{
        "keyboard": KeyboardInterrupt("k"),
        "generator": GeneratorExit("g"),
        "bare": BaseException("b"),
        "surrogate": ValueError("no caf" + chr(0xDCE9) + ".txt"),
    }}[name]


@function(idempotent=True)
async def raise_anything_async(name: str) -> dict[str, str]:
    return raise_anything(name)


@function(idempotent=True)
def left(item: str) -> dict[str, str]:
    return {{"shared": "left of " + item, "left": item}}


@function(idempotent=True)
def right(item: str) -> dict[str, str]:
    return {{"shared": "right of " + item, "right": item}}


@function(idempotent=True)
def together(left: str, right: str, shared: str) -> dict[str, str]:
    return {{"together": left + right + shared}}


def _first_hangs(context: ToolContext) -> bool:
    return context.attempt == 1


@function(idempotent=True, timeout_s=0.5)
def hang_once(context: ToolContext) -> dict[str, int]:
    if _first_hangs(context):
        time.sleep(20)
    return {{"attempt": context.attempt}}


@function(idempotent=False, timeout_s=0.5)
def hang_once_unsafe(context: ToolContext) -> dict[str, int]:
    if _first_hangs(context):
        time.sleep(20)
    return {{"attempt": context.attempt}}


@function(idempotent=True, timeout_s=0.5)
async def hang_once_async(context: ToolContext) -> dict[str, int]:
    if _first_hangs(context):
        await asyncio.sleep(20)
    return {{"attempt": context.attempt}}


@function(idempotent=False, timeout_s=0.5)
async def hang_once_async_unsafe(context: ToolContext) -> dict[str, int]:
    if _first_hangs(context):
        await asyncio.sleep(20)
    return {{"attempt": context.attempt}}


@function(idempotent=True, timeout_s=0.5)
async def hang_stubbornly(context: ToolContext) -> dict[str, int]:
    """Does not even stop when it is cancelled."""
    if _first_hangs(context):
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            await asyncio.sleep(20)
    return {{"attempt": context.attempt}}


@function(idempotent=True)
def poison(item: str) -> dict[str, str]:
    """Kills every worker it meets."""
    with PIDS.open("a") as file:
        file.write(f"{{os.getpid()}}\\n")
    os._exit(1)


@function(idempotent=True)
def large(size: int) -> dict[str, Any]:
    return {{"text": "x" * size, "numbers": list(range(1000)), "size": size}}


@function(idempotent=True)
def measure(text: str, numbers: list[int]) -> dict[str, Any]:
    return {{"text": text.upper(), "length": len(text), "total": sum(numbers)}}


@function(idempotent=True)
def unserialisable() -> dict[str, Any]:
    return {{"handle": object()}}


@function(idempotent=True)
def same(item: str) -> dict[str, str]:
    return {{"squared": item}}


@function(idempotent=True)
def square(item: int) -> dict[str, int]:
    return {{"squared": item * item}}
'''


def trouble(folder: Path, counter_url: str = "") -> str:
    """Functions that hang, die, count, and give what they should not."""
    return write(
        folder / "trouble.py", TROUBLE.format(counter=counter_url, pids=(folder / "pids").as_posix())
    )
