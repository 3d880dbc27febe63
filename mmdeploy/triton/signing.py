"""Signed releases: OpenSSF model signing with a key of one's own, checked by theirs or by anybody's tools.

The signature is a Sigstore bundle, ``model.sig`` in the release, over every other file of it, the manifest included.
``model_signing verify key RELEASE --signature RELEASE/model.sig --public_key KEY`` checks it without mmdeploy.
Keys are elliptic (P-256, P-384, P-521), in PEM: ``openssl ecparam -name prime256v1 -genkey -noout -out key.pem``.
"""

from __future__ import annotations

import importlib
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmdeploy.core.errors import EnvironmentUnfitError, StoreError, UsageError
from mmdeploy.triton.staging import SIGNATURE, translated

#: What an encrypted private key is opened with.
PASSWORD_VARIABLE = "MMDEPLOY_SIGNING_PASSWORD"
_MAKE_KEY = "make one: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"


def sign(release: Path, private_key: Path) -> None:
    """Sign a folder; a signature that is there is replaced.

    Raises:
        UsageError: If the key cannot be used.
        StoreError: If the signature cannot be written.
        EnvironmentUnfitError: If the library is missing.
    """
    release = release.resolve()
    signer = _signer(private_key)
    with translated(f"cannot sign {release}"):
        written = release / f".{SIGNATURE}.{os.getpid()}"
        try:
            signer.set_hashing_config(_hashing(release / SIGNATURE, written)).sign(release, written)
            written.replace(release / SIGNATURE)
        finally:
            written.unlink(missing_ok=True)


def check_key(private_key: Path) -> None:
    """Do nothing where a private key can sign.

    Raises:
        UsageError: If it cannot.
        EnvironmentUnfitError: If the library is missing.
    """
    _signer(private_key)


def unsigned(release: Path, public_key: Path) -> str | None:
    """Say why a release is not what the owner of a key signed; None where it is.

    Raises:
        UsageError: If the key cannot be used.
        EnvironmentUnfitError: If the library is missing.
    """
    _require()
    from cryptography.exceptions import InvalidSignature

    release = release.resolve()
    try:
        verifier = _configured("verifying").use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise _unusable(public_key, "public", error) from error
    if not (release / SIGNATURE).is_file():
        return f"it is not signed: there is no {SIGNATURE}"
    try:
        verifier.set_hashing_config(_hashing(release / SIGNATURE)).verify(release, release / SIGNATURE)
    except InvalidSignature:
        return "the signature does not belong to what it says it signs"
    except OSError as error:
        raise StoreError(f"{release} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # noqa: BLE001 - a bundle that is no bundle raises what its parser happens to
        text = str(error)
        if text.startswith("Key mismatch"):
            return f"it is signed with another key than {public_key}"
        if text.startswith("Signature mismatch"):
            return f"its files are not those that were signed ({_named(text)})"
        return f"{SIGNATURE} is no signature ({type(error).__name__})"
    return None


def require_signed(releases: list[Path], public_key: Path) -> None:
    """Do nothing where all releases are what the owner of a key signed.

    Raises:
        StoreError: Naming the first that is not.
    """
    for release in releases:
        if why := unsigned(release, public_key):
            raise StoreError(
                f"{release} is refused: {why}", hint="sign it: mmdeploy sign, or serve without --public-key"
            )


def _signer(private_key: Path) -> Any:
    _require()
    password = os.environ.get(PASSWORD_VARIABLE)
    try:
        secret: Any = password.encode() if password else None
        return _configured("signing").use_elliptic_key_signer(private_key=private_key, password=secret)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise _unusable(private_key, "private", error) from error


def _hashing(*ignored: Path) -> Any:
    """Return what is hashed: every file, also those that git knows."""
    return _configured("hashing").set_ignored_paths(paths=ignored, ignore_git_paths=False)


def _configured(module: str) -> Any:
    """Return a configuration of one of the library's modules, none of which is typed."""
    return importlib.import_module(f"model_signing.{module}").Config()


def _named(text: str) -> str:
    """Return the names of files in the library's message, without its digests."""
    changed = re.findall(r"Hash mismatch for \\?'([^'\\]+)", text)
    others = re.findall(r"files (?:found )?in model [^:]*: ([^\"'\]]+)", text)
    return ", ".join(dict.fromkeys([*changed, *others]))


def _unusable(key: Path, kind: str, error: Exception) -> UsageError:
    if isinstance(error, OSError):
        return UsageError(f"the {kind} key {key} cannot be read: {error.strerror}", hint=_MAKE_KEY)
    if "assword" in str(error):
        return UsageError(
            f"the {kind} key {key} is encrypted, and {PASSWORD_VARIABLE} does not open it",
            hint=f"set {PASSWORD_VARIABLE}",
        )
    return UsageError(f"{key} is no elliptic {kind} key in PEM", hint=_MAKE_KEY if kind == "private" else None)


def _require() -> None:
    if find_spec("model_signing") is None or find_spec("OpenSSL") is None:
        raise EnvironmentUnfitError(
            "signing needs model-signing, which is not installed", hint="pip install 'multimodal-deploy[signing]'"
        )
