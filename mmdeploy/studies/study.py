"""The folder of a sweep: whose it is, what was tried, in Optuna's journal; one process at a time.

A study goes on where it was left. What its trials could not be compared over, another recipe, other data, another
machine, other libraries, makes it another study.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import EnvironmentUnfitError, UsageError
from mmdeploy.core.store import Store, translated
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.recipe_inputs import UNREAD
from mmdeploy.recipe.schema import Recipe
from mmdeploy.studies.space import Space
from mmdeploy.studies.trial import Trial, trial_of

if TYPE_CHECKING:
    from mmdeploy.planning.recipe_inputs import Labels

JOURNAL, IDENTITY = "journal.log", "study.json"
_RECORD = "mmdeploy"
#: Changes that are named; there may be many of a recipe that was rewritten.
_MOST_NAMED = 4

Identity = Mapping[str, str]


def require_optuna() -> None:
    """Do nothing where the search engine is installed.

    Raises:
        EnvironmentUnfitError: Where it is not.
    """
    if find_spec("optuna") is None:
        raise EnvironmentUnfitError(
            "mmdeploy sweep searches with Optuna, which is not installed in this environment",
            hint="pip install 'multimodal-deploy[sweep]'",
        )


def identity_of(recipe: Recipe, space: Space, store: Store, **chosen: str) -> dict[str, str]:
    """Return what makes trials comparable, each by a label that a person understands.

    Args:
        recipe: With what holds for all trials.
        space: What varies.
        store: It knows what the recipe's callables were seen to read.
        **chosen: Further choices of who asked, by name.
    """
    fingerprints = take_fingerprints(recipe, store)
    inputs = fingerprints.inputs
    found = {f"recipe {place}": text for place, text in _leaves(recipe.written.model_dump(mode="json"), ())}
    found |= {f"--set {one['option']}": one["values"] for one in space.to_json()["dimensions"]}
    found |= {name.replace("_", " "): text for name, text in chosen.items()}
    for labels in (inputs.model, *inputs.data.values()):
        found |= _digests(labels)
    found |= {label: _digest(dict(inputs.weights[name])) for name, label in inputs.weight_labels.items()}
    found |= {f"library {name}": version for name, version in fingerprints.versions.items()}
    found["machine"] = fingerprints.machine
    return found


def changes(before: Identity, now: Identity) -> list[str]:
    """Say what differs; what only one of them knows of files and packages that code reads was learned since."""
    learned = ("read by ", "package ", "library ", "files beside the recipe")
    told = []
    for label in [*before, *(label for label in now if label not in before)]:
        was, value = before.get(label), now.get(label)
        if was == value or ((was is None or value is None) and label.startswith(learned)):
            continue
        shown = all(text is None or len(text) <= 40 for text in (was, value))
        told.append(f"{label} ({was or 'nothing'} → {value or 'nothing'})" if shown else label)
    return told


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a study's folder for this process.

    Raises:
        UsageError: If another process has it.
        StoreError: If it cannot be written.
    """
    with translated(folder):
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("a")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            raise UsageError(
                f"another sweep is running in {folder}", hint="wait for it, or name another study with --name"
            ) from cause
        yield


@dataclass
class Study:
    """What was tried so far, on disk.

    Attributes:
        folder: Where everything of it lies.
        optuna: Optuna's study, over the journal.
        trials: In the order in which they were made.
    """

    folder: Path
    optuna: Any
    trials: list[Trial]

    @property
    def built(self) -> int:
        """How many builds it came to."""
        return sum(trial.built for trial in self.trials)

    def close(self, asked: Any, trial: Trial) -> Trial:
        """Write down what became of a trial, and let Optuna learn from it."""
        from optuna.trial import TrialState

        complete = trial.built and len(trial.figures) == len(self.optuna.directions)
        if complete:
            # Above 0: a gate said no, or could not tell. Samplers prefer what is not.
            asked.set_constraint("gates", {"passed": -1.0, "undecided": 0.5}.get(trial.status, 1.0))
        asked.set_user_attr(_RECORD, trial.to_json())
        self.trials.append(trial)
        if complete:
            self.optuna.tell(asked, [figure.value for figure in trial.figures.values()])
        else:
            self.optuna.tell(asked, state=TrialState.FAIL)
        return trial

    def tried(self, point: Mapping[str, str]) -> bool:
        """Say whether a point was tried, to the end."""
        return any(one.point == point and one.number >= 0 for one in self.trials)


def open_study(folder: Path, identity: Identity, objectives: tuple[str, ...], *, anew: bool) -> Study:
    """Open the study in a folder that is held, or begin one.

    Args:
        folder: Its own.
        identity: See `identity_of`.
        objectives: Their names.
        anew: Whether one that is there is set aside.

    Raises:
        UsageError: If the one that is there is another study; it names what changed.
        StoreError: If the folder cannot be written.
    """
    known = _read(folder / IDENTITY)
    if known is not None and not anew and (told := changes(known, identity)):
        listed = "\n".join(f"    {one}" for one in told[:_MOST_NAMED])
        more = f"\n    and {len(told) - _MOST_NAMED} more" if told[_MOST_NAMED:] else ""
        raise UsageError(
            f"the study in {folder} was of something else; what differs:\n{listed}{more}",
            hint="its trials cannot be compared with new ones: begin anew with --anew (the old one is kept beside it), "
            "or name another study with --name",
        )
    if anew:
        _set_aside(folder)
        known = None
    with translated(folder):
        write_identity(folder, {**identity, **(known or {})})
        return _opened(folder, objectives)


def write_identity(folder: Path, identity: Identity) -> None:
    """Write what a study is of; what is learned when its code has run is added."""
    temporary = folder / f".{IDENTITY}"
    temporary.write_text(json.dumps(dict(identity), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(folder / IDENTITY)


def _read(path: Path) -> dict[str, str] | None:
    try:
        content: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as cause:
        raise UsageError(f"{path} cannot be read: {cause}", hint="begin anew with --anew") from cause
    return content


def _opened(folder: Path, objectives: tuple[str, ...]) -> Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    found = optuna.create_study(
        storage=journal, study_name="sweep", directions=["minimize"] * len(objectives), load_if_exists=True
    )
    # This process holds the folder: what seems to run was killed, and is tried again.
    for one in found.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        found.tell(one.number, state=TrialState.FAIL)
        if _RECORD not in one.user_attrs:
            found.enqueue_trial(one.params)
    kept = [trial.user_attrs[_RECORD] for trial in found.get_trials(deepcopy=False) if _RECORD in trial.user_attrs]
    return Study(folder, found, [trial_of(fields) for fields in kept])


def _set_aside(folder: Path) -> None:
    """Move what an earlier study left into a folder of its own."""
    there = [path for path in folder.iterdir() if path.name != ".lock" and not path.name.startswith("before-")]
    if not there:
        return
    number = 1 + sum(path.name.startswith("before-") for path in folder.iterdir())
    place = folder / f"before-{number}"
    with translated(folder):
        place.mkdir()
        for path in there:
            os.rename(path, place / path.name)  # noqa: PTH104 - of one folder into another below it


def _leaves(value: Any, place: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, (dict, list)) and value:
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(below, (*place, str(key)))
    else:
        yield ".".join(place), json.dumps(value)


def _digests(labels: Labels) -> dict[str, str]:
    return {
        label: text if isinstance(text, str) else _digest(dict(text))
        for label, text in labels.items()
        if text != UNREAD
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
