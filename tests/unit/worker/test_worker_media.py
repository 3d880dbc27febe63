"""What ``preprocess`` and ``postprocess`` of a recipe read is theirs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmdeploy.core.errors import DataError
from mmdeploy.model.watching import reading, watched
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.worker.media import postprocessed, preparation

RECIPE = Path(__file__).parents[2] / "media_recipe"


def test_files_of_steps_are_not_what_the_model_s_factory_reads(tmp_path: Path) -> None:
    root = tmp_path / "recipe"
    shutil.copytree(RECIPE, root, ignore=shutil.ignore_patterns("__pycache__"))
    root.joinpath("preprocess.py").write_text(
        "import numpy as np\nfrom pathlib import Path\n\ndef count_words(text, scale):\n"
        "    return np.ones(2, np.float32) * len(Path(__file__).with_name('model.py').read_text())\n"
    )
    recipe = load_recipe(root / "recipe.yaml")
    log = tmp_path / "1.reads"
    with watched(root.resolve(), log):
        with reading("model.py:build", lasts=True):
            (root / "data.py").read_text()
        prepare = preparation(recipe)
        assert prepare is not None
        prepare({"caption": np.array([b"an owl"], dtype=object)})
        postprocessed(recipe, {"logits": np.ones((1, 3)), "embedding": np.ones((1, 8))})
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {Path(what).name for _, how, what, _ in lines if how in ("read", "native")} == {"data.py"}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            "return text[999]",
            "preprocess.py:count_words: IndexError at preprocess.py:5 (count_words): index out of range",
        ),
        (
            "return np.ones(3, np.float32)",
            "preprocess.py:count_words gave 'counts' as float32 [3], declared is FP32 [2]",
        ),
        ("return None", "preprocess.py:count_words gave no output 'counts'"),
    ],
)
def test_what_goes_wrong_in_code_of_the_recipe_is_told_of_that_code(tmp_path: Path, body: str, told: str) -> None:
    root = tmp_path / "recipe"
    shutil.copytree(RECIPE, root, ignore=shutil.ignore_patterns("__pycache__"))
    root.joinpath("preprocess.py").write_text(f"import numpy as np\n\n\ndef count_words(text, scale):\n    {body}\n")
    prepare = preparation(load_recipe(root / "recipe.yaml"))
    assert prepare is not None
    with pytest.raises(DataError) as caught:
        prepare({"caption": np.array([b"an owl"], dtype=object)})
    assert caught.value.message == f"preprocess.count_words: {told}"


def test_code_of_the_recipe_that_cannot_be_imported_is_told_with_its_line(tmp_path: Path) -> None:
    root = tmp_path / "recipe"
    shutil.copytree(RECIPE, root, ignore=shutil.ignore_patterns("__pycache__"))
    root.joinpath("preprocess.py").write_text("words = count\n\n\ndef count_words(text, scale): ...\n")
    recipe = load_recipe(root / "recipe.yaml")
    with pytest.raises(DataError, match=r"NameError at preprocess.py:1 \(<module>\): name 'count' is not defined"):
        preparation(recipe)
