"""Who may ask a gateway, and who may control it: API keys, compared in constant time and never kept as they are."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmdeploy.core.errors import UsageError

#: Keys of clients, separated by commas or line ends.
KEYS_VARIABLE = "MMDEPLOY_GATEWAY_KEYS"
#: The one key of whoever loads models and rolls releases out.
ADMIN_VARIABLE = "MMDEPLOY_GATEWAY_ADMIN_KEY"
_SHORTEST = 16
_FORMAT = f"a line holds a key of {_SHORTEST} characters or more without spaces, a name before it where wanted"


@dataclass(frozen=True)
class Key:
    """A key, of which only the digest is kept.

    Attributes:
        name: What logs call it; of one without a name, the first digits of its digest.
        digest: SHA-256.
    """

    name: str
    digest: bytes

    @classmethod
    def of(cls, secret: str, name: str = "") -> Key:
        """Keep the digest of a secret."""
        digest = hashlib.sha256(secret.encode()).digest()
        return cls(name or f"key-{digest.hex()[:8]}", digest)


@dataclass(frozen=True)
class Keys:
    """The keys of a gateway.

    Attributes:
        clients: Who may ask; empty where everybody may.
        admins: Who may control; empty where nobody may. They may ask, too.
    """

    clients: tuple[Key, ...] = ()
    admins: tuple[Key, ...] = ()

    def client(self, secret: str) -> Key | None:
        """Return whose key it is, if it may ask."""
        return _match(secret, (*self.clients, *self.admins))

    def admin(self, secret: str) -> Key | None:
        """Return whose key it is, if it may control."""
        return _match(secret, self.admins)


def _match(secret: str, keys: Iterable[Key]) -> Key | None:
    """Compare with every key, whichever is right: how long it takes says nothing."""
    digest, found = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest(), None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def read_keys(clients: Path | None, admins: Path | None, environment: Mapping[str, str] | None = None) -> Keys:
    """Read keys from files, and from the environment where a file is not given.

    Args:
        clients: File with a key a line.
        admins: Likewise.
        environment: That of the process by default.

    Raises:
        UsageError: If a file cannot be read, or holds something else.
    """
    told = os.environ if environment is None else environment
    return Keys(
        _read(clients, told.get(KEYS_VARIABLE, ""), KEYS_VARIABLE),
        _read(admins, told.get(ADMIN_VARIABLE, ""), ADMIN_VARIABLE),
    )


def _read(path: Path | None, given: str, variable: str) -> tuple[Key, ...]:
    if path is None:
        return _parsed(given.replace(",", "\n"), f"the environment's {variable}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"{path}: keys cannot be read: {why}", hint=_FORMAT) from error
    keys = _parsed(text, str(path))
    if not keys:
        raise UsageError(f"{path} holds no key", hint=_FORMAT)
    return keys


def _parsed(text: str, where: str) -> tuple[Key, ...]:
    """Read a key a line; what is wrong is told by its line, and never shown."""
    found: dict[bytes, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) > 2 or len(words[-1]) < _SHORTEST or not words[-1].isascii():
            raise UsageError(f"{where}: line {number} is no key", hint=_FORMAT)
        key = Key.of(words[-1], words[0] if len(words) == 2 else "")
        if key.digest in found:
            raise UsageError(f"{where}: line {number} is a key that an earlier line has")
        found[key.digest] = key
    return tuple(found.values())
