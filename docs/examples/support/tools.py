"""Tools and functions of the support desk: what its graph names, in plain Python.

A tool that says ``idempotent=True`` may be tried again when its worker dies. ``send_mail`` does not say so:
if its worker dies in the middle, the run asks a person what happened and never sends twice by itself.
"""

from __future__ import annotations

import json
import os
import re
import smtplib
from datetime import datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import hive_ray as hive

HERE = Path(__file__).parent
SENDER = "support@tidewell.example"
SMTP_TIMEOUT_S = 10.0
BEST = 2
NOON, EVENING = 12, 18
_WORD = re.compile(r"[a-z]{3,}")


@hive.function(idempotent=True)
def billing_desk() -> dict[str, Any]:
    return _desk("Billing", "billing")


@hive.function(idempotent=True)
def technical_desk() -> dict[str, Any]:
    return _desk("Technical support", "technical")


@hive.function(idempotent=True)
def front_desk() -> dict[str, Any]:
    return _desk("Customer care", "general")


def _desk(name: str, shelf: str) -> dict[str, Any]:
    return {"desk": {"name": name, "shelf": shelf}}


@hive.function(idempotent=True)
def open_case(subject: str, body: str, desk: dict[str, str]) -> dict[str, str]:
    """What has to be looked up, and on which shelf of the knowledge base."""
    return {"question": f"{subject}\n{body}", "shelf": desk["shelf"]}


@hive.tool(idempotent=True, timeout_s=15, tags=["reads"])
def search_knowledge(question: str, shelf: str) -> list[dict[str, str]]:
    """Articles of one shelf that have a word in common with the question; else the whole shelf."""
    articles = json.loads((HERE / "knowledge.json").read_text("utf-8"))
    shelved = [article for article in articles if article["shelf"] == shelf]
    return [article for article in shelved if _common(question, article)] or shelved


@hive.function(idempotent=True)
def rank_articles(question: str, articles: list[dict[str, str]]) -> dict[str, Any]:
    """The texts of the best articles, best first."""
    ranked = sorted(articles, key=lambda article: _common(question, article), reverse=True)
    return {"findings": [article["text"] for article in ranked[:BEST]]}


def _common(question: str, article: dict[str, str]) -> int:
    """How many words question and article share."""
    words = _WORD.findall(f"{article['title']} {article['text']}".lower())
    return len(set(words) & set(_WORD.findall(question.lower())))


@hive.tool(idempotent=True, timeout_s=15, tags=["reads"])
def look_up_account(customer: str) -> dict[str, Any]:
    """The customer's account, or that there is none under this address."""
    accounts: dict[str, Any] = json.loads((HERE / "accounts.json").read_text("utf-8"))
    return accounts.get(customer, {"name": customer, "plan": "none"})


@hive.function(idempotent=True)
def sum_up(findings: list[str], account: dict[str, Any], local_time: dict[str, Any]) -> dict[str, str]:
    """The facts in a few sentences, and a greeting for the time of day at the customer's."""
    since = f", a customer since {account['customer_since']}" if "customer_since" in account else ""
    known = f"The customer is {account['name']}, plan {account['plan']}{since}."
    hour = datetime.fromisoformat(local_time["datetime"]).hour
    time_of_day = "morning" if hour < NOON else "afternoon" if hour < EVENING else "evening"
    greeting = f"Good {time_of_day}, {account['name'].partition(' ')[0]},"
    return {"facts": " ".join([*findings, known]), "greeting": greeting}


@hive.tool(timeout_s=30, tags=["sends_mail"])
def send_mail(
    customer: str, subject: str, desk: dict[str, str], answer: str, context: hive.ToolContext
) -> dict[str, str]:
    """Mail the answer through the SMTP server at SUPPORT_SMTP (host:port)."""
    # The same for every attempt of this step, so that a receiver can tell a repeat.
    message_id = f"<{context.idempotency_key.replace(':', '.')}@tidewell.example>"
    mail = EmailMessage()
    mail["From"] = f"Tidewell {desk['name']} <{SENDER}>"
    mail["To"] = customer
    mail["Subject"] = f"Re: {subject}"
    mail["Message-ID"] = message_id
    mail.set_content(answer)
    host, _, port = os.environ.get("SUPPORT_SMTP", "127.0.0.1:8025").rpartition(":")
    with smtplib.SMTP(host, int(port), timeout=SMTP_TIMEOUT_S) as server:
        server.send_message(mail)
    return {"message_id": message_id, "to": customer}


@hive.function(idempotent=True)
def set_aside(feedback: str | None = None) -> dict[str, str]:
    """Leave the ticket to a person, with what the reviewer said."""
    return {"note": feedback or "The answer was not approved."}
