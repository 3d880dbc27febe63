"""What ``preprocess`` and ``postprocess`` of a recipe read is theirs."""

import json
import shutil
from pathlib import Path

import numpy as np

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
