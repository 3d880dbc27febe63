"""What may be chosen when a release is packaged."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mmdeploy.core.errors import UsageError
from mmdeploy.packaging.sizing import Sizing
from mmdeploy.packaging.subject import Subject

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_IMAGE = re.compile(r"[a-z0-9]([a-z0-9._:/-]*[a-z0-9])?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class PackageSettings:
    """What may be chosen.

    Attributes:
        image: What the image is called, with its registry and tag; after the release where it is left out.
        digest: Digest of the base image, ``sha256:…``.
        model_control: none, or explicit: models can be unloaded and loaded while the server runs.
        min_replicas: Fewest pods.
        max_replicas: Most pods.
        gateway: Whether compose and Kubernetes have a gateway before Triton.
        sizing: The plan of capacity that says how many replicas, where there is one.
    """

    image: str | None = None
    digest: str | None = None
    model_control: Literal["none", "explicit"] = "none"
    min_replicas: int = 2
    max_replicas: int = 10
    gateway: bool = False
    sizing: Sizing | None = None

    def __post_init__(self) -> None:
        """Refuse what no registry or cluster takes.

        Raises:
            UsageError: Naming the option.
        """
        if self.digest is not None and not _DIGEST.fullmatch(self.digest):
            raise UsageError(
                f"--digest {self.digest!r} is no digest of an image",
                hint="sha256: and 64 hexadecimal digits, as `docker buildx imagetools inspect IMAGE` shows them",
            )
        if self.image is not None and not _IMAGE.fullmatch(self.image):
            raise UsageError(
                f"--image {self.image!r} is no name of an image with a tag",
                hint="such as registry.example/team/name:20261126",
            )
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise UsageError(
                f"--min-replicas {self.min_replicas} and --max-replicas {self.max_replicas} leave nothing to choose",
                hint="at least 1, and no more than --max-replicas",
            )

    @property
    def cores(self) -> int | None:
        """Cores of a replica, where a plan says how many."""
        return None if self.sizing is None else self.sizing.cores

    def image_of(self, subject: Subject) -> str:
        """Return what the image of a release is called."""
        return self.image or subject.image

    def gateway_image_of(self, subject: Subject) -> str:
        """Return what the image of a release's gateway is called."""
        name, _, tag = self.image_of(subject).rpartition(":")
        return f"{name}-gateway:{tag}"
