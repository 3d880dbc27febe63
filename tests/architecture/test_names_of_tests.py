"""Names of the modules that pytest imports: by their last part alone, since test folders are no packages."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def of_one_name(paths: Iterable[Path]) -> list[list[Path]]:
    """Return the modules in folders with tests, or above them, that pytest would take for each other.

    It puts such folders before everything else that Python imports from, so that a second ``samples.py`` would be
    taken for the first, and of a second ``test_samples.py`` nothing would run.
    """
    paths = sorted(paths)
    searched = {path.parent for path in paths if path.name.startswith("test_") or path.name == "conftest.py"}
    named = defaultdict(list)
    for path in paths:
        if path.parent in searched and path.name not in ("conftest.py", "__init__.py"):
            named[path.stem].append(path)
    return [found for found in named.values() if len(found) > 1]


def test_no_two_modules_of_tests_have_one_name() -> None:
    assert of_one_name(TESTS.rglob("*.py")) == []


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["unit/a/test_x.py", "unit/b/test_x.py"], 1),
        (["unit/a/test_x.py", "unit/a/samples.py", "unit/b/test_y.py", "unit/b/samples.py"], 1),
        (["unit/conftest.py", "unit/samples.py", "unit/b/test_y.py", "unit/b/samples.py"], 1),
        (["unit/a/test_x.py", "unit/a/conftest.py", "unit/b/test_y.py", "unit/b/conftest.py"], 0),
        (["tiny/model.py", "media/model.py", "unit/a/test_x.py"], 0),
    ],
)
def test_a_name_that_is_there_twice_is_seen(names: list[str], found: int) -> None:
    assert len(of_one_name(map(Path, names))) == found
