"""Bad input to pruning, training and searching, as a user of ``mmdeploy build`` meets it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from labelled_recipe import with_splits
from user_view import replaced

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("builds")]

Refused = Callable[..., str]
FUSION = "components.fusion."


@pytest.fixture
def refused(mmdeploy_command: Callable[..., object], tiny_recipe: Path, shared_workdir: Path) -> Refused:
    """Builds the recipe with overrides, expects it to fail, and returns what standard error said."""

    def run(*overrides: str, code: int = 3) -> str:
        settings = [word for override in overrides for word in ("--set", override)]
        done = mmdeploy_command(
            "build", tiny_recipe, "--workdir", shared_workdir, "--jobs", 1, "--set", "gates=[]", *settings
        )
        assert done.returncode == code, done.stdout + done.stderr  # type: ignore[attr-defined]
        told = str(done.stderr)  # type: ignore[attr-defined]
        assert "Traceback" not in told
        assert "\nhint: " in told or code == 2
        return told

    return run


@pytest.fixture
def labelled(tiny_recipe: Path) -> None:
    with_splits(tiny_recipe)


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("{method: structured, ratio: 1.5}", "prune.ratio\n    must be less than 1, not the number 1.5"),
        ("{method: structured, ratio: 0}", "prune.ratio\n    must be greater than 0, not the number 0"),
        ("{method: magnitude, sparsity: -0.5}", "prune.sparsity\n    must be greater than 0, not the number -0.5"),
        ("{method: n_m, n: 4, m: 4}", "n: 4 of m: 4 prunes nothing; n must be below m\n"),
    ],
)
def test_sparsity_outside_its_range(refused: Refused, section: str, told: str) -> None:
    assert told in refused(f"components.fusion.prune={section}", code=2)


def test_a_layer_name_that_matches_nothing(refused: Refused) -> None:
    told = refused(FUSION + "prune={method: magnitude, sparsity: 0.5, include: [hiden]}")
    assert "step fusion/prune failed: include: 'hiden' matches no module\nhint: nearest: hidden\n" in told
    told = refused(FUSION + "quantize={method: static, exclude: ['hiden/*']}")
    assert "step fusion/quantize failed: exclude: 'hiden/*' matches no node\nhint: nearest: hidden/Gemm\n" in told


@pytest.mark.parametrize("section", ["recover={method: finetune}", "quantize={method: qat}"])
def test_training_data_that_is_missing(refused: Refused, section: str) -> None:
    told = refused(FUSION + section, code=2)
    assert "2 problems in the recipe" in told
    assert "trains on labelled samples: name them in data.training" in told
    assert "neither trained on nor judged on: name them in data.validation" in told


@pytest.mark.parametrize(
    "section", ["quantize={method: auto}", "prune={method: auto}", "engine=auto", "engine={method: auto}"]
)
def test_a_search_without_data_to_decide_by(refused: Refused, section: str) -> None:
    told = refused(FUSION + section, code=2)
    assert "auto decides by labelled samples that are neither trained on nor judged on: name them in data.val" in told


@pytest.mark.parametrize("split", ["training", "validation"])
def test_a_split_that_is_also_judged_on_is_refused_by_name(refused: Refused, labelled: None, split: str) -> None:
    told = refused(f"data.{split}=data.py:evaluation", FUSION + "quantize={method: qat}", code=2)
    assert f"data.{split}" in told
    assert "data.py:evaluation" in told


def test_samples_that_are_also_judged_on_are_refused_by_digest(
    refused: Refused, labelled: None, tiny_recipe: Path
) -> None:
    replaced(tiny_recipe.with_name("data.py"), "return _labelled(3, 256)", "return _labelled(2, 256)")
    told = refused(FUSION + "recover={method: finetune, epochs: 1}")
    assert "step fusion/recover failed: data.py:training: sample 0 is also sample 0 of data.py:evaluation\n" in told
    assert "hint: a sample that was learned from, or chosen by, proves nothing where the result is judged" in told


def test_a_ratio_that_would_empty_a_layer(refused: Refused) -> None:
    told = refused(FUSION + "prune={method: structured, ratio: 0.99}")
    assert "ratio 0.99 leaves 'hidden' 0.32 of 32 channels; the least is round_to: 8\n" in told
    assert "hint: at most 0.75 is possible here, or exclude 'hidden'\n" in told
    told = refused(FUSION + "prune={method: magnitude, sparsity: 0.999}")
    assert re.search(r"sparsity 0\.999 leaves classify\.weight without a single weight\nhint: at most 0\.9\d+ is", told)


def test_nothing_that_could_be_pruned_is_listed_with_the_reason(refused: Refused) -> None:
    told = refused("components.left.prune={method: structured, ratio: 0.5}")
    assert "finds nothing to cut: project: its width is that of the component's output 'embedding'" in told


def test_qat_without_anything_to_quantize(refused: Refused, labelled: None) -> None:
    told = refused(FUSION + "quantize={method: qat, exclude: ['*']}")
    assert "step fusion/train failed: fusion: nothing is left to quantize: all 2 layers are out" in told


def test_a_budget_that_cannot_be_met_is_a_no_with_the_best_found(refused: Refused, labelled: None) -> None:
    told = refused(
        "components.left.quantize.percentile=60", FUSION + "quantize={method: auto, max_drop: 0.0, samples: 64}", code=1
    )
    assert "step fusion/quantize failed: fusion: the budget, max_drop 0 of top1, is lost before it: " in told
    assert re.search(
        r"the ensemble already loses 0\.\d+ by what feeds it\nhint: compress less what lies upstream", told
    )


def test_no_ratio_that_keeps_the_budget(refused: Refused, labelled: None) -> None:
    told = refused(FUSION + "prune={method: auto, max_drop: 0.0, ratios: [0.75], recovery: null}", code=1)
    assert "no pruning ratio of the ladder keeps max_drop 0 of top1; the best found is " in told


def test_a_module_that_cannot_be_traced_is_named(refused: Refused, tiny_recipe: Path) -> None:
    model = tiny_recipe.with_name("model.py")
    replaced(model, "self.hidden = nn.Linear(32, 32)", "self.hidden = Frozen(32, 32)")
    frozen = (
        "class Frozen(nn.Linear):\n"
        "    def forward(self, values: Tensor) -> Tensor:\n"
        "        return super().forward(values).detach()\n\n\n"
    )
    replaced(model, "class Fusion(nn.Module):", frozen + "class Fusion(nn.Module):")
    told = refused(FUSION + "prune={method: structured, ratio: 0.5}")
    assert (
        "step fusion/prune failed: fusion: torch-pruning cannot trace its module 'hidden': no gradient passes" in told
    )
    assert "hint: `exclude: [hidden]` keeps it, and the widths around it, as they are" in told
