"""Fixtures around a small recipe that is right, to be made wrong in one place or several."""

from collections.abc import Callable
from pathlib import Path

import pytest
from recipe_samples import write_sample_files


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A right recipe with its files, in a folder that is the working directory."""
    monkeypatch.chdir(tmp_path)
    write_sample_files(tmp_path)
    return Path("recipe.yaml")


@pytest.fixture
def edited(sample: Path) -> Callable[..., Path]:
    """Replaces pieces of the right recipe; every piece must be there."""

    def edit(*replacements: tuple[str, str]) -> Path:
        text = sample.read_text()
        for old, new in replacements:
            assert old in text, f"the sample recipe has no {old!r}"
            text = text.replace(old, new, 1)
        sample.write_text(text)
        return sample

    return edit


@pytest.fixture
def problems() -> Callable[..., list[tuple[str, str]]]:
    """Loads a recipe that is wrong and returns (where, message) of each problem."""
    from mmdeploy.core.errors import RecipeError
    from mmdeploy.recipe.loader import load_recipe

    def load(path: Path, *overrides: str) -> list[tuple[str, str]]:
        with pytest.raises(RecipeError) as caught:
            load_recipe(path, overrides)
        return [(problem.where, problem.message) for problem in caught.value.problems]

    return load
