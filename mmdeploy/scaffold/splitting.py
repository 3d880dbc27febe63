"""Two sets of samples out of one data callable: what is judged on shall not be what ranges are taken from."""

from __future__ import annotations

from mmdeploy.scaffold.proposal import MOST_CALIBRATION

FILENAME = "init_data.py"
CALIBRATION, EVALUATION = f"{FILENAME}:calibration", f"{FILENAME}:evaluation"

_TEXT = '''"""Two sets of samples out of {reference}: every other one calibrates, the others are judged on.

Made by mmdeploy init, since it was given one data callable. Better: two callables over two splits of your data, the
second one of samples that the model was not trained on, named in the recipe under data.
"""

from itertools import islice

from {module} import {name} as every_sample


def calibration():
    """Yield every second sample, up to {most}: INT8 takes its ranges from them."""
    return islice(every_sample(), 1, {stop}, 2)


def evaluation():
    """Yield the other samples: the gates judge on them."""
    return islice(every_sample(), 0, None, 2)
'''


def split_text(reference: str) -> str | None:
    """Return a module that splits the samples of a data callable; None where it cannot import it."""
    place, _, name = reference.rpartition(":")
    module = place.removesuffix(".py").replace("/", ".")
    if not all(part.isidentifier() for part in module.split(".")):
        return None
    return _TEXT.format(reference=reference, module=module, name=name, most=MOST_CALIBRATION, stop=2 * MOST_CALIBRATION)
