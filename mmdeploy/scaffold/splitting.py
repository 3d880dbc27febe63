"""The samples of calibration and evaluation out of the user's callables: halves of one, and without what cannot serve.

What is judged on shall not be what ranges are taken from. Calibration takes samples that hold every input; the gates
also judge on those that lack one which may be left out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from mmdeploy.core.errors import DataError
from mmdeploy.scaffold.proposal import MOST_CALIBRATION
from mmdeploy.scaffold.seen import Seen

FILENAME = "init_data.py"

_HALVES = '''"""Two sets of samples out of {data}: every other one calibrates, the others are judged on.

Made by mmdeploy init, since it was given one data callable. Better: two callables over two splits of your data, the
second one of samples that the model was not trained on, named in the recipe under data.
"""

from itertools import {tools}

from {data_module} import {data_name} as every_sample
'''
_CHOSEN = '''"""The samples of {data} that calibrate, and those of {evaluation} that are judged on.

Made by mmdeploy init, since some samples lack an input (docs/missing_modalities.md).
"""

from {data_module} import {data_name} as to_calibrate
from {evaluation_module} import {evaluation_name} as to_judge
'''
_NAMES = """
WHOLE = {whole}
NEEDED = {needed}
"""
_HALVED = '''

def calibration():
    """Yield every second sample, up to {most}: INT8 takes its ranges from them."""
    return islice(_samples(every_sample()), 1, {stop}, 2)


def evaluation():
    """Yield the other samples: the gates judge on them."""
    return islice(_samples(every_sample()), 0, None, 2)
'''
_HALVED_WHOLE = '''

def calibration():
    """Yield every second sample of those that hold all inputs, up to {most}: INT8 takes its ranges from them."""
    return islice(_holding(WHOLE, every_sample()), 1, {stop}, 2)


def evaluation():
    """Yield the other samples, also what lacks inputs that are not needed: the gates judge on them."""
    whole = count()
    for sample in _holding(NEEDED, every_sample()):
        if not _holds(WHOLE, sample) or next(whole) % 2 == 0:
            yield sample
'''
_CHOSEN_WHOLE = '''

def calibration():
    """Yield the samples that hold all inputs: INT8 takes its ranges from them."""
    return _holding(WHOLE, to_calibrate())


def evaluation():
    """Yield the samples that hold the inputs that are needed: the gates judge on them."""
    return _holding(NEEDED, to_judge())
'''
_SAMPLES = '''

def _samples(made):
    """Yield samples; what is no iterable, as a torch Dataset, gives them by number."""
    return iter(made) if hasattr(made, "__iter__") else map(made.__getitem__, range(len(made)))
'''
_HOLDING = """

def _holding(names, made):
    return (sample for sample in _samples(made) if _holds(names, sample))


def _holds(names, sample):
    inputs = sample[0] if isinstance(sample, tuple) else sample
    return names <= {{*inputs}}
"""


@dataclass(frozen=True)
class SampleSets:
    """What the recipe names as its data.

    Attributes:
        calibration: Reference.
        evaluation: Reference.
        calibration_samples: How many of those seen calibrate.
        evaluation_samples: How many of those seen are judged on.
        code: Text of `FILENAME`; None where the user's callables serve as they are.
        notes: What a person should know of it, a sentence each.
    """

    calibration: str
    evaluation: str
    calibration_samples: int
    evaluation_samples: int
    code: str | None = None
    notes: tuple[str, ...] = ()


def sample_sets(data: str, evaluation: str | None, seen: Seen, optional: Collection[str]) -> SampleSets:
    """Share out the samples that were seen.

    Args:
        data: The user's callable.
        evaluation: Another one, of held-out samples; None where there is none.
        seen: Of both.
        optional: Inputs that may be left out.

    Raises:
        DataError: When samples must be left out and no file could import what gives them.
    """
    whole, needed = {*seen.inputs}, {*seen.inputs} - {*optional}
    calibrates, judges = seen.holding(whole, of=0), seen.holding(needed, of=-1)
    chosen = calibrates < seen.holding((), of=0) or judges < seen.holding((), of=-1)
    halved = evaluation is None and calibrates > 1
    one, other = _imports("data", data), _imports("evaluation", evaluation or data)
    if not (one and other) or not (halved or chosen):
        if chosen:
            raise _cannot_choose(seen, data, evaluation)
        return SampleSets(data, evaluation or data, min(MOST_CALIBRATION, calibrates), judges, None, _same(evaluation))
    if halved:
        calibrates, judges = calibrates // 2, judges - calibrates // 2
    text = (
        (_HALVES if halved else _CHOSEN)
        + (_NAMES if chosen else "")
        + (_HALVED if not chosen else _HALVED_WHOLE if halved else _CHOSEN_WHOLE)
        + _SAMPLES
        + (_HOLDING if chosen else "")
    )
    code = text.format(
        **one, **other, most=MOST_CALIBRATION, stop=2 * MOST_CALIBRATION, tools="count, islice" if chosen else "islice",
        whole=_set(whole), needed=_set(needed),
    )  # fmt: skip
    notes = (*(() if halved else _same(evaluation)), *_left_out(seen, needed))
    return SampleSets(
        f"{FILENAME}:calibration", f"{FILENAME}:evaluation", min(MOST_CALIBRATION, calibrates), judges, code, notes
    )


def _same(evaluation: str | None) -> tuple[str, ...]:
    if evaluation is not None:
        return ()
    return (
        "Calibration and evaluation are the same samples: name two callables, the second of samples that were neither "
        "trained nor calibrated on.",
    )


def _left_out(seen: Seen, needed: Collection[str]) -> Iterator[str]:
    for name in seen.inputs:
        if name in needed and (lacking := seen.lacking(name)):
            yield (
                f"{lacking} of {seen.count} samples lack {name}: {FILENAME} leaves them out, since nothing can stand "
                "in for it as the components are (docs/missing_modalities.md)."
            )


def _cannot_choose(seen: Seen, data: str, evaluation: str | None) -> DataError:
    lacking = ", ".join(f"{seen.lacking(name)} lack {name}" for name in seen.inputs if seen.lacking(name))
    both = f"{data} and {evaluation}" if evaluation else data
    return DataError(
        f"of {seen.count} samples of {both}, {lacking}",
        hint="--data gives samples that hold every input, those of --evaluation may lack some "
        "(docs/missing_modalities.md)",
    )


def _imports(kind: str, reference: str) -> dict[str, str]:
    """Return how a file imports a callable; nothing where it cannot."""
    place, _, name = reference.rpartition(":")
    module = place.removesuffix(".py").replace("/", ".")
    if not all(part.isidentifier() for part in module.split(".")):
        return {}
    return {kind: reference, f"{kind}_module": module, f"{kind}_name": name}


def _set(names: Collection[str]) -> str:
    return "{" + ", ".join(map(json.dumps, sorted(names))) + "}" if names else "set()"
