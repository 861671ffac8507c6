"""Modules of tools, written into a test's folder as a user would write ``tools.py``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SUPPORT = '''
"""Tools of the support desk."""

import smtplib
from email.message import EmailMessage

from hive_ray.workers.tools import ToolContext, tool

PORT = {port}


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
    mail["Message-ID"] = f"<{{context.idempotency_key}}@example.com>"
    mail.set_content(body)
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


def support_tools(folder: Path, smtp_port: int) -> str:
    """The customer-support graph's tools; mails go to that port."""
    return write(folder / "support_tools.py", SUPPORT.format(port=smtp_port))


def generic_tools(folder: Path, names: Iterable[str]) -> str:
    """A tool under each name that takes and answers anything."""
    head = "from typing import Any\n\nfrom hive_ray.workers.tools import tool\n"
    return write(folder / "generic_tools.py", head + "".join(GENERIC.format(name=name) for name in names))


def write(file: Path, source: str) -> str:
    file.write_text(source, "utf-8")
    return str(file)
