"""Pages that are made from templates: what all of them are made with, compiled once and not at every build."""

from __future__ import annotations

import contextlib
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import BytecodeCache, Environment


def environment(package: str, folder: str, **more: Any) -> Environment:
    """Return what templates of a package are made into pages with: values are escaped, and none may be missing.

    Args:
        package: That holds them.
        folder: In it.
        more: Options of Jinja beside these.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(package, folder), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, bytecode_cache=_compiled(), **more,
    )  # fmt: skip


@cache
def _compiled() -> BytecodeCache | None:
    """Return where compiled templates are kept: the user's own folder of Jinja; none where that cannot be had."""
    from jinja2.bccache import Bucket, FileSystemBytecodeCache

    class Kept(FileSystemBytecodeCache):
        """Keeps what can be kept: a page is not lost because the folder of temporary files is full."""

        def load_bytecode(self, bucket: Bucket) -> None:
            try:
                super().load_bytecode(bucket)
            except OSError:
                bucket.reset()

        def dump_bytecode(self, bucket: Bucket) -> None:
            with contextlib.suppress(OSError):
                super().dump_bytecode(bucket)

    try:
        return Kept()
    except (OSError, RuntimeError):  # the latter: the folder is somebody else's
        return None
