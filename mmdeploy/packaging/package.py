"""Packages a release: everything that an image, compose, Kubernetes, KServe and Prometheus need, in one folder.

The folder is written beside its place and moved there whole. The same release with the same choices gives the same
bytes. Nothing secret is in it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmdeploy.core.errors import UsageError
from mmdeploy.packaging import monitoring
from mmdeploy.packaging.compose import compose_file
from mmdeploy.packaging.container_file import container_file, image_files
from mmdeploy.packaging.containers import Container
from mmdeploy.packaging.fit import unfit
from mmdeploy.packaging.folder import place
from mmdeploy.packaging.gateway import GATEWAY_PORT, copy_described, gateway_files
from mmdeploy.packaging.kserve import kserve_files
from mmdeploy.packaging.kubernetes import kubernetes_files
from mmdeploy.packaging.monitoring.options import MonitoringOptions
from mmdeploy.packaging.notes import notes
from mmdeploy.packaging.server_options import ServerSettings, server_options
from mmdeploy.packaging.settings import PackageSettings
from mmdeploy.packaging.sizing import require_for
from mmdeploy.packaging.subject import Subject, read_subject
from mmdeploy.triton.lint import Finding, Severity, lint
from mmdeploy.triton.signing import require_signed
from mmdeploy.triton.staging import copy_file


@dataclass(frozen=True)
class Packaged:
    """What was written.

    Attributes:
        folder: Where.
        subject: The release.
        doubts: What cannot be known of the image from here, or must be seen to.
        notes: What else whoever runs it must know.
        changed: Whether anything was written: no where it was there already.
    """

    folder: Path
    subject: Subject
    doubts: tuple[Finding, ...]
    notes: tuple[str, ...]
    changed: bool


def package(
    release: Path,
    output: Path,
    container: Container,
    settings: PackageSettings,
    public_key: Path | None = None,
) -> Packaged:
    """Write the folder.

    Args:
        release: A release, or where one ensemble is published.
        output: The folder: not there, empty, or written by this before.
        container: The image that the release's image is based on.
        settings: What was chosen.
        public_key: Whose signature the release must have; not asked for where it is left out.

    Raises:
        UsageError: If that is no release, the image does not serve it, a plan of capacity is for another one, the
            folder holds something else, or a stream is to have a gateway.
        StoreError: If the release is damaged or not signed, or the folder cannot be written.
    """
    subject = read_subject(release)
    if public_key is not None:
        require_signed([subject.path], public_key)
    if subject.stream and settings.gateway:
        raise UsageError(
            f"{subject.name} takes samples in chunks, and the gateway knows no sequences",
            hint="leave --gateway out: clients ask Triton itself",
        )
    if settings.sizing is not None:
        require_for(settings.sizing, subject)
    doubts = _doubts(subject, container)
    told = notes(subject, container, settings)
    found = _files(subject, container, settings)
    copied: dict[str, Callable[[Path], None]] = {"image/release": _release_copier(subject)}
    if settings.gateway:
        copied["gateway/release"] = functools.partial(copy_described, subject.path)
    changed = place(output, found, copied, release_of=subject.manifest_sha256)
    return Packaged(output, subject, doubts, told, changed)


def _doubts(subject: Subject, container: Container) -> tuple[Finding, ...]:
    findings = (*lint(subject.path), *unfit(subject.path, container))
    errors = [one for one in findings if one.severity is Severity.ERROR]
    if errors:
        shown = "".join(f"\n  {one}" for one in errors)
        raise UsageError(
            f"release {subject.release_id} of {subject.name} cannot be served by {container.image}:{shown}",
            hint="choose another --container, or build what fits it; nothing was written",
        )
    return findings


def _files(subject: Subject, container: Container, settings: PackageSettings) -> dict[str, bytes]:
    options = server_options(subject, container.triton, ServerSettings(model_control=settings.model_control))
    found = {"image/Containerfile": container_file(subject, container, settings.digest)}
    found |= {f"image/{name}": content for name, content in image_files(subject, options).items()}
    found["compose.yaml"] = compose_file(subject, settings)
    if settings.gateway:
        found |= {f"gateway/{name}": content for name, content in gateway_files().items()}
    targets = (f"gateway:{GATEWAY_PORT}",) if settings.gateway else ()
    found |= monitoring.files_of(subject.path, MonitoringOptions(gateway_targets=targets))
    found |= {f"kubernetes/{name}": content for name, content in kubernetes_files(subject, settings).items()}
    found |= {f"kserve/{name}": content for name, content in kserve_files(subject, settings).items()}
    return found


def _release_copier(subject: Subject) -> Callable[[Path], None]:
    def copy(target: Path) -> None:
        for source in sorted(subject.path.rglob("*")):
            path = target / source.relative_to(subject.path)
            if source.is_dir():
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                copy_file(source, path)

    return copy
