"""A store in a folder: every write is on the disk before it returns.

``create`` writes a file without a name (``O_TMPFILE``), syncs its data, gives it its name with link(2),
which refuses a name that is taken, and syncs the folder. So no reader ever sees half an object, and a
crash leaves no litter. Filesystems that lack a piece of this get the next best way: a named temporary
file with link(2), then renameat2(2) with RENAME_NOREPLACE. Measured for 20 KB on ext4: 0.44 ms without
a name, 0.49 ms by renameat2, 0.55 ms with a temporary name.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress

from hive_ray.errors import AlreadyExists, ObjectMissing, StoreError, StoreRefused
from hive_ray.state.store import PROBE_FOLDER, checked_name, probe_create_if_absent

_HELD_FOLDERS = 64
_TEMP = ".tmp"
_TEMP_KEPT_S = 3600
_RENAME_NOREPLACE = 1

# What a filesystem answers that cannot do this kind of creation at all.
_UNSUPPORTED = frozenset(
    {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EXDEV}
)
_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space; writing goes on by itself",
    errno.EDQUOT: "the disk quota is used up: raise it or free some space; writing goes on by itself",
    errno.EFBIG: "the file size limit is too low: raise it (ulimit -f)",
    errno.EROFS: "the filesystem is read-only: mount it writable or point state.url elsewhere",
    errno.EACCES: "no permission: give this user read and write access to the folder",
    errno.EPERM: "not permitted: give this user read and write access to the folder",
    errno.EIO: "the disk failed: check it before starting again",
    errno.ENOTDIR: "a part of the path is no folder: point state.url at a folder",
}


class FileStore:
    """Objects as files below ``root`` (made when first written, readable by its owner only)."""

    inline = True

    def __init__(self, root: str) -> None:
        self.url = f"file://{root}"
        self._root = root.rstrip("/") or "/"
        self._held: dict[str, int] = {}
        self._unsynced: set[str] = set()
        self._serial = itertools.count()
        self._ways: list[Callable[[int, str, bytes], None]] = [
            self._create_unnamed,
            self._create_linked,
            self._create_renamed,
        ]
        self._sweep()

    def create(self, name: str, data: bytes) -> None:
        """Write an object that must not exist yet; durable on return."""
        folder, _, file = checked_name(name).rpartition("/")
        with self._errors(name), self._opened(folder, make=True) as fd:
            try:
                self._create(fd, file, data)
            except FileExistsError:
                # A name that is seen must also survive a crash: its writer may have died before this.
                self._sync(folder, fd)
                raise AlreadyExists(f"{self._root}/{name} exists already") from None
            self._sync(folder, fd)

    def put(self, name: str, data: bytes) -> None:
        """Write or replace an object atomically; durable on return."""
        folder, _, file = checked_name(name).rpartition("/")
        with self._errors(name), self._opened(folder, make=True) as fd:
            with self._opened(_TEMP, make=True) as temp_fd:
                temp = self._write_temp(temp_fd, data)
                os.rename(temp, file, src_dir_fd=temp_fd, dst_dir_fd=fd)
            self._sync(folder, fd)

    def get(self, name: str) -> bytes:
        """Read a whole object; raises ``ObjectMissing``."""
        with self._errors(name), self._reading(name) as fd:
            return _read(fd, 0, os.fstat(fd).st_size)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Read a part of an object; raises ``StoreError`` if it is shorter."""
        with self._errors(name), self._reading(name) as fd:
            data = _read(fd, offset, length)
        if len(data) != length:
            raise StoreError(f"{self._root}/{name} is shorter than {offset + length} bytes")
        return data

    def list(self, prefix: str, after: str = "") -> list[str]:
        """Name the objects below a folder that sort behind ``after``."""
        folder = checked_name(prefix.rstrip("/")) if prefix else ""
        with self._errors(folder):
            return sorted(name for name in self._walk(folder) if name > after)

    def delete(self, *names: str) -> None:
        """Remove objects; one that is absent is no error. Durable on return."""
        # Each folder is synced once: whoever writes into it meanwhile waits for every sync.
        folders: dict[str, None] = {}
        for name in names:
            folder, _, file = checked_name(name).rpartition("/")
            with self._errors(name), suppress(FileNotFoundError), self._opened(folder, make=False) as fd:
                os.unlink(file, dir_fd=fd)
                folders[folder] = None
        for folder in folders:
            with self._errors(folder), self._opened(folder, make=False) as fd:
                self._sync(folder, fd)

    def probe(self) -> None:
        """Raise ``StoreRefused`` if create-if-absent or syncing does not work in this folder."""
        try:
            probe_create_if_absent(self)
            with suppress(OSError):
                os.rmdir(f"{self._root}/{PROBE_FOLDER}")
        finally:
            # It is gone, or somebody else's probe removes it: what is held open would be nowhere.
            held = self._held.pop(PROBE_FOLDER, None)
            if held is not None:
                os.close(held)

    def close(self) -> None:
        """Close the folders that were held open."""
        while self._held:
            os.close(self._held.popitem()[1])

    def _create(self, fd: int, file: str, data: bytes) -> None:
        while True:
            try:
                return self._ways[0](fd, file, data)
            except FileExistsError:
                raise
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                self._next_way(error)

    def _next_way(self, error: OSError) -> None:
        if len(self._ways) == 1:
            raise StoreRefused(
                f"{self._root}: this filesystem has neither link(2) nor renameat2(2), so two controllers "
                "could overwrite each other's journal; point state.url at a local filesystem"
            ) from error
        self._ways = self._ways[1:]

    def _create_unnamed(self, fd: int, file: str, data: bytes) -> None:
        out = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=fd)
        try:
            _write(out, data)
            os.link(f"/proc/self/fd/{out}", file, dst_dir_fd=fd, follow_symlinks=True)
        finally:
            os.close(out)

    def _create_linked(self, fd: int, file: str, data: bytes) -> None:
        with self._opened(_TEMP, make=True) as temp_fd:
            temp = self._write_temp(temp_fd, data)
            try:
                os.link(temp, file, src_dir_fd=temp_fd, dst_dir_fd=fd)
            finally:
                os.unlink(temp, dir_fd=temp_fd)

    def _create_renamed(self, fd: int, file: str, data: bytes) -> None:
        with self._opened(_TEMP, make=True) as temp_fd:
            temp = self._write_temp(temp_fd, data)
            try:
                _rename_noreplace(temp_fd, temp, fd, file)
            except OSError:
                os.unlink(temp, dir_fd=temp_fd)
                raise

    def _write_temp(self, temp_fd: int, data: bytes) -> str:
        temp = f"{os.getpid()}-{time.monotonic_ns()}-{next(self._serial)}"
        out = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=temp_fd)
        try:
            _write(out, data)
        except OSError:
            os.unlink(temp, dir_fd=temp_fd)
            raise
        finally:
            os.close(out)
        return temp

    def _sync(self, folder: str, fd: int) -> None:
        # A name whose folder could not be synced is visible and may yet vanish in a crash: no reader may
        # take it for written until a later sync succeeds.
        try:
            os.fsync(fd)
        except OSError:
            self._unsynced.add(folder)
            raise
        self._unsynced.discard(folder)

    @contextmanager
    def _reading(self, name: str) -> Generator[int, None, None]:
        folder, _, file = checked_name(name).rpartition("/")
        with self._opened(folder, make=False) as folder_fd:
            if folder in self._unsynced:
                self._sync(folder, folder_fd)
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder_fd)
            try:
                yield fd
            finally:
                os.close(fd)

    @contextmanager
    def _opened(self, folder: str, *, make: bool) -> Generator[int, None, None]:
        held = self._held.get(folder)
        if held is not None:
            yield held
            return
        fd = self._open_folder(folder, make=make)
        # Never evicted, so that no thread's folder is closed under it; folders beyond the bound are
        # opened for each use.
        if len(self._held) < _HELD_FOLDERS and self._held.setdefault(folder, fd) == fd:
            yield fd
            return
        try:
            yield fd
        finally:
            os.close(fd)

    def _open_folder(self, folder: str, *, make: bool) -> int:
        path = f"{self._root}/{folder}" if folder else self._root
        if make:
            _make_folders(path)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _walk(self, folder: str) -> Iterator[str]:
        path = f"{self._root}/{folder}" if folder else self._root
        with suppress(FileNotFoundError), os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk(name)
                else:
                    yield name

    def _sweep(self) -> None:
        """Remove temporary files of writers that died; young ones may belong to a live process."""
        oldest = time.time() - _TEMP_KEPT_S
        # Litter is no fault: of a store that takes no writes it is not ours to remove.
        with suppress(OSError), os.scandir(f"{self._root}/{_TEMP}") as entries:
            for entry in entries:
                if entry.stat(follow_symlinks=False).st_mtime < oldest:
                    os.unlink(entry.path)

    @contextmanager
    def _errors(self, name: str) -> Generator[None, None, None]:
        try:
            yield
        except FileNotFoundError as error:
            raise ObjectMissing(f"{self._root}/{name} does not exist") from error
        except OSError as error:
            remedy = _REMEDIES.get(error.errno or 0, "check the folder and the disk below it")
            raise StoreError(f"{self._root}: {name}: {os.strerror(error.errno or 0)}; {remedy}") from error


def _write(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    if written < len(data):
        rest = memoryview(data)[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]
    os.fdatasync(fd)


def _read(fd: int, offset: int, length: int) -> bytes:
    data = os.pread(fd, length, offset)
    if len(data) == length or not data:
        return data
    parts = [data]
    while data and (missing := length - sum(map(len, parts))):
        data = os.pread(fd, missing, offset + length - missing)
        parts.append(data)
    return b"".join(parts)


def _make_folders(path: str) -> None:
    """Make a folder and those above it; a new folder's own name is synced too."""
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    _make_folders(above)
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    fd = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _rename_noreplace(from_fd: int, source: str, to_fd: int, target: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    flags = ctypes.c_uint(_RENAME_NOREPLACE)
    if libc.renameat2(from_fd, os.fsencode(source), to_fd, os.fsencode(target), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)
