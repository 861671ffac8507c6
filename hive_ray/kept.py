"""What runs leave behind, for clients: artifacts and long-term memory, over HTTP."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from hive_ray.errors import NotFound

Json = Any


class Http(Protocol):
    """What is needed of ``hive_ray.client.Client``."""

    def get(self, path: str, params: Mapping[str, Json] | None = None) -> Json: ...

    def send(
        self, method: str, path: str, body: Json = None, headers: Mapping[str, str] | None = None
    ) -> Json: ...

    def download(self, path: str) -> Iterator[bytes]: ...


class Artifact:
    """A file that a run's step made.

    Attributes:
        id: unique within the run; a name may stand for several, of which the newest counts.
        run_id: the run whose step made it, a child run perhaps.
        sha256: hex digest of its bytes.
    """

    def __init__(self, http: Http, root: str, told: Mapping[str, Json]) -> None:
        self._http = http
        self._root = root
        self.told = dict(told)
        self.id: str = told["artifact_id"]
        self.name: str = told["name"]
        self.media_type: str = told["media_type"]
        self.size: int = told["size_bytes"]
        self.sha256: str = told["sha256"]
        self.run_id: str = told["run_id"]
        self.node: str = told["node"]

    def __repr__(self) -> str:
        return f"Artifact({self.id!r}, {self.name!r}, {self.size} bytes)"

    def parts(self) -> Iterator[bytes]:
        """Its bytes as they come.

        The id is asked for, not the name: what stands in an address ends in logs on the way.
        """
        return self._http.download(f"/v1/runs/{self._root}/artifacts/{self.id}")

    def read(self) -> bytes:
        return b"".join(self.parts())

    def save(self, path: str | Path | None = None) -> Path:
        """Write it to a file, by default under its name in the current folder; returns the path."""
        target = Path(path) if path is not None else Path(self.name)
        with target.open("wb") as file:
            for part in self.parts():
                file.write(part)
        return target


def chosen(found: list[Artifact], name: str, run_id: str) -> Artifact:
    """The artifact of an id, or the newest of a name; raises ``NotFound``."""
    fitting = [item for item in found if item.id == name] or [item for item in found if item.name == name]
    if not fitting:
        names = ", ".join(dict.fromkeys(item.name for item in found)) or "none"
        raise NotFound(f"run {run_id} has no artifact {name}; it has: {names}")
    return fitting[-1]


class Memory:
    """The long-term memory of one owner."""

    def __init__(self, http: Http, scope: str, owner: str) -> None:
        self._http = http
        self.scope = scope
        self.owner = owner

    def __repr__(self) -> str:
        return f"Memory({self.scope!r}, {self.owner!r})"

    def get(self, key: str) -> Json:
        """The value.

        Raises:
            NotFound: there is no such key.
        """
        return self.entry(key)["value"]

    def entry(self, key: str) -> dict[str, Json]:
        """The value with its version, and who wrote it when."""
        return self._http.get(self._path(key))

    def put(self, key: str, value: Json, *, if_version: int | None = None) -> int:
        """Write a value; returns its version.

        Args:
            if_version: the version that must be there; 0: the key must be absent.

        Raises:
            Conflict: another version is there.
        """
        headers = _condition(if_version) | {"X-Request-ID": str(uuid.uuid4())}
        return self._http.send("PUT", self._path(key), {"value": value}, headers)["version"]

    def delete(self, key: str, *, if_version: int | None = None) -> None:
        """Delete a key; one that is absent is no fault."""
        self._http.send("DELETE", self._path(key), None, _condition(if_version))

    def keys(self, prefix: str = "") -> Iterator[dict[str, Json]]:
        """Keys in order, each with version, size, and who wrote it when."""
        after = ""
        while True:
            page = self._http.get(self._path(), {"prefix": prefix, "after": after})
            yield from page["keys"]
            if page["next_after"] is None:
                return
            after = page["next_after"]

    def _path(self, key: str = "") -> str:
        base = f"/v1/memory/{quote(self.scope, safe='')}/{quote(self.owner, safe='')}"
        return f"{base}/{quote(key)}" if key else base


def _condition(if_version: int | None) -> dict[str, str]:
    if if_version is None:
        return {}
    return {"If-Match": f'"v{if_version}"'} if if_version else {"If-None-Match": "*"}
