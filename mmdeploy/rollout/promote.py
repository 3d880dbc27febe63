"""The promotion of one release: load beside, check, move the ensemble, unload; taken back where it does not hold.

The order, and why, is told in `mmdeploy.rollout`.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmdeploy.core.artifact import Array, file_sha256
from mmdeploy.core.errors import InferenceError, MmdeployError, PromotionError, ServerError, StoreError
from mmdeploy.rollout.control import await_quiet, config_of, needed_by_others, require_control, served_for
from mmdeploy.rollout.generation import CONFIG, Generation, Part, belongs, generation_of
from mmdeploy.rollout.server_folder import ServerFolder
from mmdeploy.triton.client import HttpRunner
from mmdeploy.triton.golden import GOLDEN, Golden, disagreements, read_golden
from mmdeploy.triton.known_samples import read_samples
from mmdeploy.triton.lint import Severity, lint
from mmdeploy.triton.probe import loaded_models
from mmdeploy.triton.repository import require_intact
from mmdeploy.triton.server import Server
from mmdeploy.triton.staging import MANIFEST

logger = logging.getLogger(__name__)

#: How long requests that started before the swap are waited for at least.
DRAIN_S = 1.0
_SHOWN = 5
#: Fields of a configuration by which the ensemble and its candidate differ.
_NAMING = frozenset({"name", "version_policy"})


@dataclass(frozen=True)
class Candidate:
    """A release that was found good to be put into a server, as far as that can be said without one.

    Attributes:
        generation: Its models.
        golden: What it is checked with; None for a release without golden requests.
        samples: One sample of its models' inputs, by the model's name in the release.
        manifest_sha256: Digest of its manifest.
    """

    generation: Generation
    golden: Golden | None
    samples: Mapping[str, Mapping[str, Array]]
    manifest_sha256: str

    def sample(self, part: Part) -> Mapping[str, Array]:
        """Return a sample of what a model takes; nothing where none is known."""
        return self.samples.get(part.plain, {})


@dataclass(frozen=True)
class Promotion:
    """What a promotion did.

    Attributes:
        ensemble: Name of the ensemble.
        release_id: Id of the release that serves now.
        before: Id of the release that served before; None where that is not known, or there was none.
        checked: Number of golden requests that were answered as in the build, by the candidate and then by the
            ensemble; 0 for a release that has none.
        loaded: Parts that were loaded for it.
        reused: Parts that served already.
        unloaded: Models that serve no more.
        swap_s: Time in which the ensemble was replaced.
        changed: False where the release served already.
    """

    ensemble: str
    release_id: str
    before: str | None
    checked: int = 0
    loaded: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()
    unloaded: tuple[str, ...] = ()
    swap_s: float = 0.0
    changed: bool = True


def examined(release: Path) -> Candidate:
    """Look at a release before any server hears of it.

    Raises:
        StoreError: If it is not what was published, or is damaged.
        PromotionError: If lint finds what a server would refuse.
        UsageError: If a config.pbtxt cannot be read.
    """
    release = release.resolve()
    if not (release / MANIFEST).is_file():
        raise StoreError(
            f"{release} is no release: it has no {MANIFEST}", hint="publish it: mmdeploy build RECIPE; or rollback"
        )
    require_intact([release], sweep=True)  # a server that serves it has its Python compiled there
    found = [one for one in lint(release) if one.severity is Severity.ERROR]
    if found:
        shown = "".join(f"\n  {one.file}: {one.message}" for one in found[:_SHOWN])
        raise PromotionError(f"release {release.name} has what a server would refuse:{shown}", hint="build it again")
    golden = read_golden(release / GOLDEN) if (release / GOLDEN).is_file() else None
    return Candidate(generation_of(release), golden, read_samples([release]), file_sha256(release / MANIFEST))


def promote(
    server: Server,
    folder: Path,
    candidate: Candidate,
    *,
    told: Callable[[str], None] = logger.info,
    drain_s: float = DRAIN_S,
    trial: Callable[[str], None] | None = None,
) -> Promotion:
    """Have a server serve a release under the ensemble's name.

    Args:
        server: With explicit model control, and its key.
        folder: The repository that it serves the ensemble from, or is to, as this machine sees it.
        candidate: What `examined` returned.
        told: Hears of each stage.
        drain_s: How long requests that started before are waited for at least, before the old models are unloaded.
        trial: Is given the candidate's name when it is loaded and was asked its golden requests; raises where it does
            not hold, see `mmdeploy.rollout.canary`.

    Raises:
        UsageError: If the key is wrong, the folder cannot be one, or another promotion is under way.
        EnvironmentUnfitError: If the server has no model control.
        PromotionError: If the release does not load or does not answer as in the build. It was taken back.
        StoreError: If the folder cannot be written, such as on a full disk.
        ServerError: If the server does not answer.
    """
    generation = candidate.generation
    require_control(server)
    place = ServerFolder(folder, generation.ensemble)
    with place.locked():
        promotion = _swap(server, place, candidate, told, trial)
        if promotion.changed:
            told(f"waiting for requests that started before, at least {drain_s:g} s")
            await_quiet(server, _left(server, place), drain_s)
            promotion = _cleaned(server, place, generation, promotion)
        return promotion


def stand_beside(
    server: Server,
    place: ServerFolder,
    candidate: Candidate,
    *,
    placed: list[str],
    told: Callable[[str], None],
) -> tuple[str, ...]:
    """Load a release beside what serves and ask the candidate its golden requests; return the parts that are new.

    Args:
        server: With explicit model control.
        place: Its folder, locked.
        candidate: The release.
        placed: Gets the names of the models that are written.
        told: Hears of each stage.

    Raises:
        PromotionError: If it does not load or does not answer as in the build; what was loaded stays.
    """
    generation = candidate.generation
    before = frozenset(loaded_models(server.http_url))
    for part in (*generation.parts, generation.candidate):
        placed.append(part.name)
        if not place.place(part, generation.release, candidate.sample(part)):
            placed.pop()
        if part.name not in before:
            told(f"loading {part.name}")
            _load(server, part.name, generation)
    told("asking the candidate golden requests" if candidate.golden else "asking the candidate")
    _check(server, generation.candidate.name, candidate)
    return tuple(part.name for part in generation.parts if part.name not in before)


@contextlib.contextmanager
def taken_back_on_failure(server: Server, place: ServerFolder) -> Iterator[list[str]]:
    """Unload and remove what a release brought, should what is done with it fail, or be interrupted.

    What serves the ensemble is put back first. Gives a list for the names of the models that are written.
    """
    before, was = place.front_config(), _wired(server, place.ensemble)
    placed: list[str] = []
    try:
        yield placed
    except BaseException as error:
        try:
            if place.front_config() != before or _wired(server, place.ensemble) != was:
                place.point_back(before)
                if was is None:
                    server.unload(place.ensemble)
                else:
                    server.load(place.ensemble)
            clean(server, place, _left(server, place))
            place.sweep()
        except MmdeployError:  # a server that is gone: so that it does not start with what was not good enough
            for name in placed:
                place.remove(name)
        if isinstance(error, InferenceError):
            raise ServerError(error.message) from error
        raise


def clean(server: Server, place: ServerFolder, models: frozenset[str]) -> tuple[str, ...]:
    """Unload models and remove them from the server's folder; ensembles first."""
    loaded = frozenset(loaded_models(server.http_url))
    ensembles = {name for name in models & loaded if "ensemble_scheduling" in (config_of(server, name) or {})}
    for name in sorted(models, key=lambda name: (name not in ensembles, name)):
        if name in loaded:
            server.unload(name)
        place.remove(name)
    return tuple(sorted(models & loaded))


def _swap(
    server: Server,
    place: ServerFolder,
    candidate: Candidate,
    told: Callable[[str], None],
    trial: Callable[[str], None] | None,
) -> Promotion:
    """Make the ensemble one of the new release's parts; the old ones stay loaded."""
    generation = candidate.generation
    place.sweep()
    done = Promotion(generation.ensemble, generation.release_id, place.record().get("release"), changed=False)
    clean(server, place, _left(server, place))  # of a promotion that was killed
    if _serves(server, place, candidate):
        return done
    with taken_back_on_failure(server, place) as placed:
        new = stand_beside(server, place, candidate, placed=placed, told=told)
        if trial is not None:
            trial(generation.candidate.name)
        told(f"moving {generation.ensemble} to {generation.release_id}")
        leaving, started = served_for(server, [generation.ensemble]), time.monotonic()
        place.point(generation, candidate.sample(generation.candidate), leaving)
        _load(server, generation.ensemble, generation)
        took = time.monotonic() - started
        if _wired(server, generation.ensemble) != _wired(server, generation.candidate.name):
            raise PromotionError(
                f"{server.http_url} does not serve {generation.ensemble} from {place.path}: it was not moved",
                hint="name its model repository, as this machine sees it, with --server-repository",
            )
        _check(server, generation.ensemble, candidate)
        place.write_record(generation.release_id, candidate.manifest_sha256, leaving)
    return replace(
        done,
        checked=len(candidate.golden.requests) if candidate.golden else 0,
        loaded=new,
        reused=tuple(sorted(generation.names - set(new))),
        swap_s=took,
        changed=True,
    )


def _cleaned(server: Server, place: ServerFolder, generation: Generation, promotion: Promotion) -> Promotion:
    """Unload what serves no more."""
    unloaded = clean(server, place, _left(server, place))
    place.forget_versions(generation.front.versions)
    return replace(promotion, unloaded=tuple(name for name in unloaded if name != generation.candidate.name))


def _serves(server: Server, place: ServerFolder, candidate: Candidate) -> bool:
    """Say whether a release serves already, as it was promoted or as the server was started with it."""
    if place.record().get("manifest_sha256") != candidate.manifest_sha256:
        return False
    generation, parts = candidate.generation, candidate.generation.parts
    own = served_for(server, [place.ensemble])
    started_with = (generation.release / place.ensemble / CONFIG).read_text(encoding="utf-8")
    if place.front_config() not in (generation.front.config, started_with):
        return False  # the server was not told
    return own in ({part.name for part in parts}, {part.plain for part in parts})


def _wired(server: Server, ensemble: str) -> dict[str, Any] | None:
    """Return how an ensemble is served now, whatever it is called; None where it is not served."""
    config = config_of(server, ensemble)
    return None if config is None else {key: one for key, one in config.items() if key not in _NAMING}


def _left(server: Server, place: ServerFolder) -> frozenset[str]:
    """Return the models that promotions brought for the ensemble, or that served it, and that nothing asks for now."""
    around = place.models() | frozenset(loaded_models(server.http_url))
    own = served_for(server, [place.ensemble]) | place.asked()
    left = frozenset(name for name in around if belongs(name, place.ensemble)) | (around & place.leaving())
    return left - own - needed_by_others(server, place.ensemble, left | own)


def _load(server: Server, model: str, generation: Generation) -> None:
    try:
        server.load(model)
    except ServerError as error:
        if "failed to poll from model repository" in error.message:
            raise PromotionError(
                f"{server.http_url} does not find {model}: it does not serve the folder that it was put into",
                hint="name the server's model repository, as this machine sees it, with --server-repository",
            ) from error
        raise PromotionError(
            f"release {generation.release_id} does not load: {error.message}; it was taken back"
        ) from error


def _check(server: Server, model: str, candidate: Candidate) -> None:
    """Ask a model golden requests, or, where there are none, a sample."""
    release_id, golden = candidate.generation.release_id, candidate.golden
    with contextlib.closing(_runner(server, model, release_id)) as runner:
        if golden is None:
            sample = candidate.sample(candidate.generation.candidate)
            lead = 1 if runner.max_batch_size else 0
            feed = {name: array.reshape(*[1] * lead, *(array.shape or (1,))) for name, array in sample.items()}
            wrong = () if not feed else _refusal(runner, feed)
        else:
            wrong = disagreements(golden, runner.infer)
    if wrong:
        shown = "".join(f"\n  {one}" for one in wrong[:_SHOWN])
        more = f"\n  and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise PromotionError(
            f"release {release_id} does not answer as it did in its build; it was taken back:{shown}{more}",
            hint="is it the machine that it was built for? mmdeploy build it there",
        )


def _runner(server: Server, model: str, release_id: str) -> HttpRunner:
    try:
        return HttpRunner(server.http_url, model, binary=True)
    except InferenceError as error:
        raise PromotionError(f"release {release_id} is not served as {model}: {error.message}") from error


def _refusal(runner: HttpRunner, feed: Mapping[str, Array]) -> tuple[str, ...]:
    try:
        runner.infer(feed)
    except InferenceError as error:
        return (error.message,)
    return ()
