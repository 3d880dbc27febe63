"""Publish what a build came to, unless just that is live already.

A build without gates in which nothing changed would publish a release that differs from the live one in its number
alone. It is not published: what is live is held against its manifest and its provenance against this build's, and the
report names the release. A file that differs, is missing or was added, and a release of another recipe, code, commit,
library or machine, are published as ever. Gates measure anew, so what they judged is always a release of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mmdeploy.building.provenance import PROVENANCE, Made, statement, untraced, write_provenance
from mmdeploy.building.run_state import RunState
from mmdeploy.building.settings import Settings
from mmdeploy.triton.repository import live_folder, publish
from mmdeploy.triton.signing import sign
from mmdeploy.triton.staging import complete, verify


@dataclass(frozen=True)
class Standing:
    """What is live, as a build finds it that would publish.

    Attributes:
        release: Id of the live release if it is whole and what the build would publish, else None.
        damage: What of it is no longer as it was published, where it would be that release otherwise.
    """

    release: str | None = None
    damage: tuple[str, ...] = ()


def standing(root: Path, made: Made) -> Standing:
    """Say whether what a build made is live already. Files that were read before and are as they were are not read.

    Args:
        root: Where releases are published.
        made: What the build made.
    """
    live = live_folder(root, made.recipe.name)
    if live is None or _timeless(_provenance(live)) != _timeless(json.loads(json.dumps(statement(made)))):
        return Standing()
    damage = (*verify(live, facts=made.facts), *untraced(live))
    return Standing(damage=damage) if damage else Standing(live.name)


def publish_made(made: Made, settings: Settings, state: RunState, folder: Path, *, allowed: bool) -> None:
    """Publish what was staged, or find that it is live already, and say so in the state and the run's folder.

    Args:
        made: What the build made.
        settings: How it was asked to build.
        state: What it has come to.
        folder: The run's folder.
        allowed: Whether it may be published. What it was made of is written down in any case.

    Raises:
        StoreError: If it cannot be published; what was live stays so.
    """
    target = settings.destination / made.recipe.name
    if allowed and state.judgement is None and settings.sign_key is None:
        found = standing(settings.destination, made)
        if found.release is not None:
            state.published, state.release = target, found.release
            shutil.rmtree(made.repository.path)
            write_provenance(folder, made)
            return
        if found.damage:
            state.notes.append(f"What was live is not what was published, so it is new: {'; '.join(found.damage)}.")
    from mmdeploy.building.beside_release import write_beside

    staged = complete(made.repository)
    if not allowed:
        write_beside(folder, made)
        return
    state.published, state.release = target, made.run_id
    told = {"published": target, "release": made.run_id, "notes": tuple(state.notes)}
    made = replace(made, report=made.report.model_copy(update=told))
    try:
        publish(
            staged.path,
            settings.destination,
            made.recipe.name,
            release_id=made.run_id,
            extra_files=lambda: write_beside(folder, made),
            sign=None if settings.sign_key is None else partial(sign, private_key=settings.sign_key),
            facts=made.facts,
        )
    except BaseException:
        if target.resolve().name != made.run_id:  # an interrupt may come when the release is live already
            state.published = state.release = None
        raise


def _provenance(release: Path) -> Any:
    try:
        return json.loads((release / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _timeless(provenance: Any) -> Any:
    """Return what provenance says but for which run it was, and when."""
    if not isinstance(provenance, Mapping) or not isinstance(provenance.get("predicate"), Mapping):
        return None
    predicate = dict(provenance["predicate"])
    details = {key: value for key, value in dict(predicate.pop("runDetails", {})).items() if key != "metadata"}
    return {**provenance, "predicate": {**predicate, "runDetails": details}}
