"""Follows what is published: a server that runs is given each release that becomes live, by build or by rollback.

A release that does not hold is told once and never touches what serves; the next one that becomes live is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mmdeploy.core.errors import MmdeployError, UsageError
from mmdeploy.rollout.promote import Promotion, examined, promote
from mmdeploy.rollout.server_folder import PromotionUnderWayError
from mmdeploy.triton.repository import RELEASES, in_use
from mmdeploy.triton.server import Server
from mmdeploy.triton.signing import require_signed


@dataclass(frozen=True)
class Followed:
    """An ensemble that is followed.

    Attributes:
        name: What it is published as.
        live: The link to the release that is live.
    """

    name: str
    live: Path

    def release(self) -> Path | None:
        """Return the folder of the release that is live; None where the link leads nowhere."""
        target = self.live.resolve()
        return target if target.is_dir() else None


def followed(path: Path) -> tuple[Followed, ...]:
    """Return the published ensembles at a path: of a folder of published ones, or the one that it is the link to.

    Raises:
        UsageError: If nothing is published there.
    """
    absolute = path.absolute()
    links = [absolute] if absolute.is_symlink() else sorted(one for one in absolute.iterdir() if one.is_symlink())
    found = tuple(Followed(link.name, link) for link in links if link.resolve().parent.parent.name == RELEASES)
    if not found:
        raise UsageError(
            f"{path} holds no published ensemble to follow",
            hint="name the folder that mmdeploy build publishes to, or the link in it, not a release",
        )
    return found


@dataclass
class Follower:
    """Promotes what becomes live.

    Attributes:
        server: With explicit model control and its key.
        places: What is followed, with the folder that it is served from.
        public_key: Who must have signed a release; None where nobody must have.
        told: Hears of each stage.
    """

    server: Server
    places: dict[Followed, Path]
    public_key: Path | None
    told: Callable[[str], None]
    _seen: dict[str, Path | None] = field(default_factory=dict)

    def serves(self, one: Followed, release: Path | None) -> None:
        """Take note of the release that serves."""
        self._seen[one.name] = release

    def poll(self) -> Iterator[Promotion | MmdeployError]:
        """Promote each release that became live since the last time; give what came of it."""
        for one, folder in self.places.items():
            release = one.release()
            if release is None or release == self._seen.get(one.name):
                continue
            try:
                with in_use([release]):
                    if self.public_key is not None:
                        require_signed([release], self.public_key)
                    promotion = promote(self.server, folder, examined(release), told=self.told)
            except PromotionUnderWayError:
                continue  # tried again the next time
            except MmdeployError as error:
                self._seen[one.name] = release
                yield error
            else:
                self._seen[one.name] = release
                yield promotion
