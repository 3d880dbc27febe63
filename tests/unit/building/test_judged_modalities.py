"""What gates are told of inputs that may be missing."""

from pathlib import Path

import numpy as np

from mmdeploy.building.judged_modalities import mixed_rows
from mmdeploy.core.contracts import EvidenceSubset
from mmdeploy.core.samples import Samples, column_of
from mmdeploy.recipe.loader import load_recipe

RECIPE = Path(__file__).parents[2] / "missing_recipe/recipe.yaml"
ROWS = 9


def answers(number: int) -> dict[str, np.ndarray]:
    return {"logits": np.arange(ROWS * 4, dtype=np.float32).reshape(ROWS, 4) + 1000 * number}


def test_each_second_row_lacks_what_a_subset_leaves_out_in_turns():
    recipe = load_recipe(RECIPE, ["subsets=[{without: [seen]}, {without: [heard, felt]}]", "gates=[]"])
    feeds = {name: np.random.default_rng(1).standard_normal((ROWS, 8)).astype(np.float32) for name in recipe.inputs}
    feeds["seen"][3] = 0  # counts as missing, so that it is not asked
    feeds["felt"] = column_of([None if row == 5 else array for row, array in enumerate(feeds["felt"])])
    subsets = [
        EvidenceSubset("without seen", ("seen",), answers(1), ("head",)),
        EvidenceSubset("without heard and felt", ("heard", "felt"), answers(2), ("head",)),
    ]
    mixed = mixed_rows(recipe, Samples(feeds), answers(0), subsets)
    assert mixed is not None and mixed.samples is not None
    assert mixed.samples.tolist() == [0, 1, 2, 4, 6, 7, 8]
    whose = (mixed.original["logits"] - answers(0)["logits"])[mixed.samples, 0] / 1000
    assert whose.tolist() == [0, 1, 0, 2, 0, 1, 0]
    assert {name: column[:, 0].tolist() for name, column in mixed.marks.items()} == {
        "seen_present": [True, False, True, True, True, False, True],
        "heard_present": [True, True, True, False, True, True, True],
        "felt_present": [True, True, True, False, True, True, True],
    }
    assert mixed_rows(recipe, Samples(feeds), answers(0), []) is None
