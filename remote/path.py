"""A path that is a URL, s3://bucket/folder for one, with the calls of `pathlib.Path` used here.

What a URL is opened with comes from the environment or the protocol's own configuration files,
never from the URL: that is written into manifests, logs and messages.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeAlias

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# What to install, and where credentials are looked for.
_PACKAGES = {"s3": "lifelong-ctr[s3]", "gs": "lifelong-ctr[gcs]", "gcs": "lifelong-ctr[gcs]"}
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and AWS_ENDPOINT_URL "
    "where it is not Amazon's",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account",
}
_CREDENTIALS["gcs"] = _CREDENTIALS["gs"]
# By the names of their classes: the packages that define them may not be installed.
_UNAUTHORIZED = (
    *("NoCredentialsError", "PartialCredentialsError", "PermissionError"),
    *("DefaultCredentialsError", "RefreshError"),
)
_UNREACHABLE = ("EndpointConnectionError", "ConnectTimeoutError", "ClientConnectorError")
# S3's words and Google's.
_NO_BUCKET = "specified bucket does not exist"
# An endpoint may be written with a password, and a request is signed after its `?`.
_SECRET = re.compile(r"(?<=//)[^/\s@]+@|\?\S+")


class RemoteError(OSError):
    """A URL that cannot be used; the message names it and says what to set."""


def is_url(path: object) -> bool:
    """Whether a path is a URL, `file://` included."""
    return isinstance(path, RemotePath) or "://" in str(path)


def location(path: str | Location) -> Location:
    """A path as it was given on a command line: local, or a URL.

    Args:
        path: a local path, `file:///...`, or the URL of a protocol that fsspec knows.

    Raises:
        RemoteError: a URL with credentials in it, or one that names no place.
    """
    if not isinstance(path, str):
        return path
    if not is_url(path):
        return Path(path)
    found = _URL.match(path)
    if found is None:
        # Such as `simplecache::s3://key:secret@bucket`: not repeated either.
        raise RemoteError("a path with '://' must begin with a protocol, as s3://bucket/folder")
    protocol, rest = found[1].lower(), path[found.end() :]
    if ":" in rest.rpartition("@")[0] or "?" in rest or "#" in rest:
        # The rest is not repeated: it may hold a secret.
        problem = f"{protocol}://...: what stands before an '@' or after a '?' may be a secret"
        raise RemoteError(f"{problem}; write the URL without it, and {_advice(protocol)}")
    if protocol == "file":
        if not rest.startswith("/"):
            raise RemoteError(f"{path}: names no place on this machine; write file:///folder")
        return Path(rest)
    if not rest.strip("/"):
        raise RemoteError(f"{path}: names no place; write {protocol}://bucket/folder")
    return RemotePath(f"{protocol}://{rest.rstrip('/')}")


def _advice(protocol: str) -> str:
    known = _CREDENTIALS.get(protocol)
    return known or f"give the credentials for {protocol}:// by its environment variables"


@dataclass(frozen=True)
class Status:
    """What `RemotePath.stat` tells: the size in bytes."""

    st_size: int


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or folder by its URL, made by `location`; can be pickled.

    Every call raises RemoteError where the URL cannot be used, and FileNotFoundError where a file
    that is to be read is not there.

    Args:
        url: without a slash at its end.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str | PurePosixPath) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    def relative_to(self, folder: Location) -> PurePosixPath:
        """What follows the folder's URL.

        Raises:
            ValueError: it does not lie in the folder.
        """
        if not self.url.startswith(f"{folder}/"):
            raise ValueError(f"{self} is not in {folder}")
        return PurePosixPath(self.url[len(str(folder)) + 1 :])

    def is_file(self) -> bool:
        """Whether there is a file."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Whether there is a folder, or files whose names begin as a folder's would."""
        return self._kind() == "directory"

    def exists(self) -> bool:
        """Whether there is anything."""
        return self._kind() is not None

    def stat(self) -> Status:
        """Size of a file."""
        with self._opened() as (system, path):
            return Status(int(system.size(path)))

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Entries of this folder whose names match; none where there is no folder.

        Raises:
            RemoteError: also where there is no such bucket.
        """
        with self._opened() as (system, path):
            found = self._list(system.ls, system, path)
        names = {name.rstrip("/").rpartition("/")[2] for name in found}
        yield from (self / name for name in sorted(names) if fnmatchcase(name, pattern))

    def rglob(self, pattern: str) -> Iterator[RemotePath]:
        """Files in this folder and below it whose names match."""
        with self._opened() as (system, path):
            found = self._list(system.find, system, path)
            above = len(path.rstrip("/")) + 1
        for name in sorted(found):
            if fnmatchcase(name.rpartition("/")[2], pattern):
                yield self / name[above:]

    def read_bytes(self) -> bytes:
        """The content of a file."""
        with self._opened() as (system, path):
            content: bytes = system.cat_file(path)
            return content

    def read_text(self, encoding: str = "utf-8") -> str:
        """The content of a text file."""
        return self.read_bytes().decode(encoding)

    def open(self, mode: str = "rb") -> IO[bytes]:
        """A file to read at any place; nothing is read ahead of what is asked for.

        What reading it raises is not translated; see `RemotePath.failure`.
        """
        with self._opened() as (system, path):
            file: IO[bytes] = system.open(path, mode, cache_type="none")
            return file

    def fetch(self, target: Path) -> None:
        """Copy a file to this machine.

        Raises:
            OSError: the local one cannot be written.
        """
        # Outside, where a local failure is not taken for one of the URL.
        with target.open("wb"):
            pass
        with self._opened() as (system, path):
            system.get_file(path, str(target))

    def put(self, source: Path) -> None:
        """Write a file, as a copy of a local one.

        Raises:
            OSError: the local one cannot be read.
        """
        with source.open("rb"):
            pass
        with self._opened() as (system, path):
            try:
                system.put_file(str(source), path)
            except FileNotFoundError as error:
                if _NO_BUCKET in str(error):
                    raise
                # Where folders are real they must be there; asking first would cost a request.
                system.makedirs(path.rpartition("/")[0], exist_ok=True)
                system.put_file(str(source), path)

    def unlink(self) -> None:
        """Remove a file; one that is not there is no error."""
        with self._opened() as (system, path):
            if system.exists(path):
                system.rm_file(path)

    def failure(self, error: Exception) -> RemoteError:
        """What an exception of the protocol's package means, in words that say what to set."""
        protocol, kind = self.url.partition("://")[0], type(error).__name__
        text = _SECRET.sub("", (str(error).splitlines() or [kind])[0])
        if kind in _UNAUTHORIZED:
            return RemoteError(f"{self}: access refused ({text}); {_advice(protocol)}")
        if kind in _UNREACHABLE:
            return RemoteError(f"{self}: cannot be reached ({text}); check network and endpoint")
        return RemoteError(f"{self}: {kind} ({text})")

    def _kind(self) -> str | None:
        """`file`, `directory` or, where nothing is, None."""
        with self._opened() as (system, path):
            try:
                kind: str = system.info(path)["type"]
                return kind
            except FileNotFoundError as error:
                if _NO_BUCKET in str(error):
                    raise
                return None

    def _no_bucket(self) -> RemoteError:
        return RemoteError(f"{self}: no such bucket; check its name and the endpoint")

    def _list(self, call: Any, system: Any, path: str) -> list[str]:
        try:
            found: list[str] = call(path, detail=False)
        except FileNotFoundError as error:
            bucket, _, below = path.partition("/")
            if _NO_BUCKET in str(error) or (
                self.url.partition("://")[0] in _PACKAGES and not (below and system.exists(bucket))
            ):
                raise self._no_bucket() from None
            return []
        # A folder made by hand in a console is an empty file of its own name.
        return [name for name in found if name.rstrip("/") != path.rstrip("/")]

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, str]]:
        """File system and path in it; what goes wrong inside becomes a RemoteError."""
        # Here and not at the top: what is local needs no fsspec.
        from fsspec.core import url_to_fs

        protocol = self.url.partition("://")[0]
        try:
            system, path = url_to_fs(self.url)
        except ImportError as error:
            package = _PACKAGES.get(protocol)
            advice = f"pip install '{package}'" if package else str(error)
            problem = f"{self}: the package for {protocol}:// is not installed"
            raise RemoteError(f"{problem}; {advice}") from None
        except ValueError:
            problem = f"{self}: no such protocol as {protocol}://"
            raise RemoteError(f"{problem}; s3://, gs:// and hdfs:// are some") from None
        try:
            # Others write to where we read, and a listing is asked for once.
            system.invalidate_cache()
            yield system, path
        except RemoteError:
            raise
        except FileNotFoundError as error:
            if _NO_BUCKET in str(error):
                raise self._no_bucket() from None
            raise FileNotFoundError(errno.ENOENT, "no such file", self.url) from None
        except Exception as error:  # each protocol has exceptions of its own
            raise self.failure(error) from None


Location: TypeAlias = Path | RemotePath
