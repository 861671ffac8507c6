"""MCP servers that this project did not write."""

from __future__ import annotations

from pathlib import Path

from tests.servers.process import NODE_SCRIPTS, SCRIPTS, ServerProcess, accepts, free_port

TIME_COMMAND = (str(SCRIPTS / "mcp-server-time"), "--local-timezone", "UTC")
"""PyPI's ``mcp-server-time`` on stdio; its client starts it."""


class EverythingServer(ServerProcess):
    """npm's ``server-everything`` on streamable HTTP."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/mcp"
        argv = [str(NODE_SCRIPTS / "mcp-server-everything"), "streamableHttp"]
        super().__init__(argv, folder / "everything.log", {"PORT": str(port)})
        self.await_ready(lambda: accepts(port))
