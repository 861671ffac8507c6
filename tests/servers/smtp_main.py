"""The process behind ``SmtpServer``: ``python -m tests.servers.smtp_main PORT FOLDER``."""

from __future__ import annotations

import asyncio
import sys
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope

from tests.servers.effect_log import HOLD_POLL_S, EffectLog


class Mailbox:
    """aiosmtpd's handler: a mail counts as soon as its last byte is here."""

    def __init__(self, log: EffectLog) -> None:
        self._log = log

    async def handle_DATA(self, server: SMTP, session: object, envelope: Envelope) -> str:
        self._log.append(_effect(envelope))
        while self._log.held():  # noqa: ASYNC110 - another process ends the hold, by a file
            await asyncio.sleep(HOLD_POLL_S)
        return "250 OK"


def _effect(envelope: Envelope) -> dict[str, Any]:
    content = envelope.content
    raw = content if isinstance(content, bytes) else (content or "").encode()
    message = message_from_bytes(raw, policy=policy.default)
    body = message.get_body(("plain", "html"))
    return {
        "sender": envelope.mail_from,
        "recipients": envelope.rcpt_tos,
        "subject": message["Subject"],
        "message_id": message["Message-ID"],
        "body": body.get_content() if body else "",
    }


async def serve(port: int, folder: Path) -> None:
    mailbox = Mailbox(EffectLog(folder))
    server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(mailbox, hostname="localhost"), "127.0.0.1", port
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
