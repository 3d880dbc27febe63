"""A place that machines share, reached by fsspec: S3, Google Cloud Storage, NFS, whatever has a URL.

What is written appears whole or not at all: object stores do that themselves, elsewhere a file is renamed into place.
fsspec, and what speaks a URL's protocol, are imported when the place is first asked for something. Credentials are
found by those libraries (environment, ``~/.aws``, a machine's role); none is taken from a URL, none is written down.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mmdeploy.core.errors import EnvironmentUnfitError, MmdeployError, StoreError, UsageError

#: Says that a store lies here, and in which layout.
MARK = "store.json"
_VERSION = 1
#: Overwritten to find out whether the place can be written.
_PROBE = "probe"
#: Protocols whose files appear at once when they are whole.
_ATOMIC = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "memory"}
#: Packages that speak protocols, where they are no part of our own extra.
_SPOKEN_BY = {"gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs", "adl": "adlfs",
              "oss": "ossfs", "oci": "ocifs", "sftp": "paramiko", "ssh": "paramiko", "hdfs": "pyarrow"}  # fmt: skip
_OWN_EXTRA = "'multimodal-deploy[remote]'"
#: Names of the exceptions with which the clouds' libraries say that they found no credentials.
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "ProfileNotFound",
                   "TokenRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError")  # fmt: skip
#: So that a place that is gone is noticed in seconds.
_S3_CONFIG = {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 2}}
_TIMES = ("LastModified", "mtime", "updated", "last_modified", "created")


@dataclass(frozen=True)
class Found:
    """A file at the place.

    Attributes:
        bytes: Its size.
        changed_at: When it was written, in seconds since the epoch.
    """

    bytes: int
    changed_at: float


class SharedPlace:
    """The folder, or the prefix of a bucket, that a URL names. It is opened when it is first asked."""

    def __init__(self, url: str) -> None:
        """Take the URL, or a path.

        Raises:
            UsageError: If it names no place, or holds a password.
        """
        self.url = _checked(url)
        self._opened: tuple[Any, str] | None = None

    def __str__(self) -> str:
        return self.url

    def __reduce__(self) -> tuple[object, ...]:
        """Cross process boundaries as a URL: connections stay."""
        return (SharedPlace, (self.url,))

    def require_readable(self) -> bool:
        """Open the place where that was not done; return whether there is a store.

        Raises:
            EnvironmentUnfitError: If a package or the credentials are missing.
            StoreError: If there is no such place, it cannot be reached, or its layout is not known here.
        """
        mark = self.read(MARK)
        if mark is None:
            with self._asked("read") as (fs, root):
                if not _has_container(fs, self.url, root):
                    raise FileNotFoundError(errno.ENOENT, "no such place", root)
            return False
        try:
            version = json.loads(mark)["mmdeploy_store"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self.url}/{MARK} is not that of a store", hint="name a folder of its own") from error
        if version != _VERSION:
            raise StoreError(
                f"the store at {self.url} has layout {version}, this mmdeploy knows {_VERSION}",
                hint="use one version of mmdeploy, or another folder for each",
            )
        return True

    def require_writable(self) -> None:
        """Open the place, and find out whether it can be written.

        Raises:
            EnvironmentUnfitError: If a package or the credentials are missing.
            StoreError: If it cannot be written.
        """
        if self.require_readable():
            self.write(_PROBE, b"")
        else:
            self.write(MARK, json.dumps({"mmdeploy_store": _VERSION}).encode())

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file; None where there is none."""
        with self._asked("read") as (fs, root):
            try:
                return bytes(fs.cat_file(f"{root}/{name}"))
            except FileNotFoundError as error:
                if _no_bucket(error):
                    raise
                return None

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the contents of small files, by name; without those that are not there."""
        with self._asked("read") as (fs, root):
            paths = {f"{root}/{name}": name for name in names}
            found = fs.cat([*paths], on_error="return") if paths else {}
            for content in found.values():
                if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                    raise content
            return {paths[path]: content for path, content in found.items() if isinstance(content, bytes)}

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        with self._asked("write") as (fs, root), self._whole(fs, f"{root}/{name}") as path:
            fs.pipe_file(path, content)

    def upload(self, file: Path, name: str) -> None:
        """Write a file."""
        with self._asked("write") as (fs, root), self._whole(fs, f"{root}/{name}") as path:
            fs.put_file(str(file), path)

    def download(self, name: str, file: Path) -> bool:
        """Read a file into one of this machine; return whether there is one.

        Raises:
            OSError: If this machine's disk is full.
        """
        with self._asked("read") as (fs, root):
            try:
                fs.get_file(f"{root}/{name}", str(file))
            except FileNotFoundError:
                return False
        return True

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; None where there is none."""
        with self._asked("read") as (fs, root):
            try:
                return int(fs.info(f"{root}/{name}")["size"])
            except FileNotFoundError:
                return None

    def files(self, folder: str) -> dict[str, Found]:
        """Return what lies in a folder and below, by name."""
        with self._asked("list") as (fs, root):
            try:
                found = fs.find(f"{root}/{folder}", detail=True)
            except FileNotFoundError:
                return {}
            start = len(fs._strip_protocol(root)) + 1
            return {path[start:]: Found(int(told["size"]), _changed_at(told, fs, path)) for path, told in found.items()}

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; what is gone already is not missed."""
        with self._asked("clean") as (fs, root):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    fs.rm_file(f"{root}/{name}")

    @contextlib.contextmanager
    def _whole(self, fs: Any, path: str) -> Iterator[str]:
        """Give the path to write to, so that a file is at its place when it is whole."""
        if not _ATOMIC.isdisjoint(_protocols(fs)):
            yield path
            return
        folder, _, name = path.rpartition("/")
        fs.makedirs(folder, exist_ok=True)
        half = f"{folder}/.{name}.{secrets.token_hex(6)}"
        try:
            yield half
            fs.mv(half, path)
        except BaseException:
            with contextlib.suppress(Exception):
                fs.rm_file(half)
            raise

    @contextlib.contextmanager
    def _asked(self, what: str) -> Iterator[tuple[Any, str]]:
        """Give fsspec's file system and the root, and tell its refusals in words that say what to do."""
        try:
            if self._opened is None:
                self._opened = _opened(self.url)
            yield self._opened
        except MmdeployError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT) and what == "read":
                raise  # it is this machine's disk that is full
            raise _told(error, what, self.url) from error
        except Exception as error:
            raise _told(error, what, self.url) from error


def _checked(url: str) -> str:
    protocol, marked, rest = url.partition("://")
    if not marked:
        protocol, rest = "file", str(Path(url).expanduser().absolute())
        url = f"file://{rest}"
    if re.search(r"[^/@]*:[^/@]*@", rest.split("/", 1)[0]):
        raise UsageError(
            f"the URL of the store, {protocol}://…, holds a password, which would end up in logs",
            hint="give credentials as the library takes them: by the environment, or a file of its own",
        )
    if "::" in url or "?" in url or "#" in url:
        raise UsageError(
            f"the URL of the store, {protocol}://…, is chained or has a query",
            hint="give a plain one, such as s3://bucket/prefix, gs://bucket/prefix or a path",
        )
    if not rest.strip("/"):
        raise UsageError(f"{url!r} names no place for a store", hint="name one, such as s3://bucket/prefix or a path")
    return url.rstrip("/")


def _opened(url: str) -> tuple[Any, str]:
    protocol = url.partition("://")[0]
    install = f"pip install {_SPOKEN_BY.get(protocol, _OWN_EXTRA)}"
    try:
        import fsspec.config
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise EnvironmentUnfitError(f"a store at {url} needs fsspec", hint=f"pip install {_OWN_EXTRA}") from error
    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol in ("s3", "s3a") and "config_kwargs" not in fsspec.config.conf.get("s3", {}):
        options["config_kwargs"] = _S3_CONFIG
    try:
        fs, root = url_to_fs(url, **options)
    except ImportError as error:
        raise EnvironmentUnfitError(f"a store at {url} needs a package that is missing", hint=install) from error
    except ValueError as error:
        raise UsageError(
            f"{url}: nothing is known of {protocol}://",
            hint="give s3://bucket/prefix, gs://bucket/prefix, file:///folder, a path, or another that fsspec knows",
        ) from error
    return fs, str(root).rstrip("/")


def _protocols(fs: Any) -> set[str]:
    return {fs.protocol} if isinstance(fs.protocol, str) else {*fs.protocol}


def _has_container(fs: Any, url: str, root: str) -> bool:
    """Say whether what must be there already is: a bucket, or the folder around a folder."""
    if url.startswith("memory://"):
        return True
    parent = root.rpartition("/")[0] or "/"
    return bool(fs.exists(parent if root.startswith("/") else root.split("/", 1)[0]))


def _no_bucket(error: BaseException) -> bool:
    return "bucket" in str(error).lower()


def _told(error: BaseException, what: str, url: str) -> MmdeployError:
    below: BaseException | None = error
    while below is not None:
        if type(below).__name__ in _NO_CREDENTIALS:
            return EnvironmentUnfitError(
                f"no credentials were found for {url}: {below}",
                hint="set them as its library takes them: for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "AWS_PROFILE, or a role; AWS_ENDPOINT_URL for a server of one's own",
            )
        below = below.__cause__
    if isinstance(error, FileNotFoundError):
        return StoreError(f"there is no place for a store at {url}", hint="make the bucket or folder, or name another")
    if isinstance(error, PermissionError):
        return StoreError(
            f"no permission to {what} the store at {url}: {error}",
            hint="have it given to you; --store-read-only only needs that of reading",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"no space left at {url}", hint="mmdeploy gc --store removes what was of no use for long")
    told = " ".join(f"{type(error).__name__}: {error}".split())
    return StoreError(
        f"cannot {what} the store at {url}: {told[:300]}", hint="try again, or build without --store for now"
    )


def _changed_at(told: Mapping[str, Any], fs: Any, path: str) -> float:
    value = next((told[name] for name in _TIMES if told.get(name) is not None), None)
    if value is None:
        value = fs.modified(path)
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    return value.timestamp() if isinstance(value, datetime) else float(value)
