"""S3, Google Cloud Storage and Azure through obstore: conditional writes, bounded in time.

A create that is repeated after an error whose effect is unknown may find its own object: that is
``AlreadyExists`` like any other, and the journal reads back whose it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import obstore
from obstore import exceptions as oe
from obstore.store import AzureStore, GCSStore, S3Store, from_url
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_after_delay
from tenacity.wait import wait_random_exponential

from hive_ray.errors import AlreadyExists, ConfigError, Fault, ObjectMissing, StoreError
from hive_ray.state.store import checked_name, probe_create_if_absent, url_fault

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

_CONNECT_TIMEOUT = timedelta(seconds=3)
_REQUEST_TIMEOUT = timedelta(seconds=15)
_TRIES = 4
_TRYING_S = 20.0

# obstore's own retries would hide a lost acknowledgement for up to three minutes; ours are counted.
_NO_RETRY: RetryConfig = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}

T = TypeVar("T")
Bucket = S3Store | GCSStore | AzureStore


class ObjectStore:
    """Objects below a prefix of a bucket."""

    inline = False

    def __init__(self, url: str, bucket: Bucket) -> None:
        self.url = url
        self._bucket = bucket

    def create(self, name: str, data: bytes) -> None:
        """Write an object that must not exist yet; durable on return."""
        self._write(name, data, "create")

    def put(self, name: str, data: bytes) -> None:
        """Write or replace an object atomically; durable on return."""
        self._write(name, data, "overwrite")

    def get(self, name: str) -> bytes:
        """Read a whole object; raises ``ObjectMissing``."""
        path = checked_name(name)
        return self._call(name, lambda: bytes(obstore.get(self._bucket, path).bytes()))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Read a part of an object; raises ``StoreError`` if it is shorter."""
        path = checked_name(name)
        read = self._call(name, lambda: obstore.get_range(self._bucket, path, start=offset, length=length))
        data = bytes(read)
        if len(data) != length:
            raise StoreError(f"{self.url}/{name} is shorter than {offset + length} bytes")
        return data

    def list(self, prefix: str, after: str = "") -> list[str]:
        """Name the objects below a folder that sort behind ``after``."""
        folder = checked_name(prefix.rstrip("/")) if prefix else None
        return self._call(prefix, lambda: self._names(folder, after or None))

    def delete(self, *names: str) -> None:
        """Remove objects; one that is absent is no error."""
        for name in names:
            path = checked_name(name)
            with suppress(ObjectMissing):
                self._call(name, partial(obstore.delete, self._bucket, path))

    def probe(self) -> None:
        """Raise ``StoreRefused`` if create-if-absent is ignored."""
        probe_create_if_absent(self)

    def close(self) -> None:
        """Nothing to let go of: the client's connections close with it."""

    def _write(self, name: str, data: bytes, mode: Any) -> None:
        path = checked_name(name)
        # A multipart upload is not conditional: one request, whatever the size.
        self._call(name, lambda: obstore.put(self._bucket, path, data, mode=mode, use_multipart=False))

    def _names(self, folder: str | None, after: str | None) -> list[str]:
        pages = obstore.list(self._bucket, prefix=folder, offset=after)
        return sorted(meta["path"] for page in pages for meta in page)

    def _call(self, name: str, operation: Callable[[], T]) -> T:
        where = f"{self.url}/{name}"
        try:
            return _retrying()(operation)
        except oe.AlreadyExistsError as error:
            raise AlreadyExists(f"{where} exists already") from error
        except FileNotFoundError as error:
            raise ObjectMissing(f"{where} does not exist") from error
        except (oe.PermissionDeniedError, oe.UnauthenticatedError) as error:
            raise StoreError(f"{where}: access denied; check the store's credentials and policy") from error
        except (oe.BaseError, OSError, ValueError) as error:
            remedy = "check state.url, endpoint and network"
            raise StoreError(f"{where}: {_first_line(error)}; {remedy}") from error


def open_object_store(url: str, options: Mapping[str, str]) -> ObjectStore:
    """Make the store of an ``s3://``, ``gs://`` or ``az://`` URL; nothing is sent yet.

    Raises:
        ConfigError: an option that this kind of store does not know, or a URL that it refuses.
    """
    plain_http = options.get("endpoint", "").startswith("http://")
    client: ClientConfig = {"timeout": _REQUEST_TIMEOUT, "connect_timeout": _CONNECT_TIMEOUT}
    client["allow_http"] = plain_http
    try:
        bucket = from_url(url, config=cast(Any, dict(options)), client_options=client, retry_config=_NO_RETRY)
    except oe.UnknownConfigurationKeyError as error:
        raise ConfigError("configuration", [_unknown_option(error)]) from error
    except (oe.BaseError, ValueError) as error:
        problem = f"{url!r} is refused: {_first_line(error)}"
        raise url_fault(problem, "write SCHEME://bucket/prefix") from error
    return ObjectStore(url.rstrip("/"), cast(Bucket, bucket))


def _unknown_option(error: oe.BaseError) -> Fault:
    return Fault("state", _first_line(error), "use endpoint, region, access_key_id, secret_access_key, …")


def _retrying() -> Retrying:
    return Retrying(
        retry=retry_if_exception_type(oe.GenericError),
        stop=stop_after_attempt(_TRIES) | stop_after_delay(_TRYING_S),
        wait=wait_random_exponential(multiplier=0.1, max=2.0),
        reraise=True,
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
