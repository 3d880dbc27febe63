"""Names made of content: what belongs to whom, and what another content changes."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from mmdeploy.rollout.generation import asked_models, belongs, generation_of, plain_name
from mmdeploy.triton.config import parse

BENCHMARK = Path(__file__).parents[3] / "benchmarks/hot_swap.py"
SPEC = importlib.util.spec_from_file_location("hot_swap", BENCHMARK)
assert SPEC is not None and SPEC.loader is not None
swap: Any = sys.modules.setdefault("hot_swap", importlib.util.module_from_spec(SPEC))
SPEC.loader.exec_module(swap)


def test_each_part_has_a_name_of_its_content_and_the_ensemble_keeps_its_own(tmp_path: Path) -> None:
    one, two = (generation_of(swap.release(tmp_path, number)) for number in (1, 2))
    half = generation_of(swap.release(tmp_path, 2, parts=("left",)))
    assert one.ensemble == two.ensemble == "numbers"
    assert [part.plain for part in one.parts] == ["numbers.left", "numbers.right", "numbers.head"] or one.names
    assert not one.names & two.names
    assert len(half.names & one.names) == 2 and len(half.names & two.names) == 1
    for generation in (one, two, half):
        for part in (generation.front, generation.candidate):
            config = parse(part.config, part.name)
            assert config.name == part.name
            assert {step.model_name for step in config.ensemble_scheduling.step} == generation.names
    again = generation_of(swap.release(tmp_path / "elsewhere", 1))
    assert again.names == one.names


def test_an_ensemble_that_is_cached_has_a_version_of_its_content(tmp_path: Path) -> None:
    versions = [generation_of(swap.release(tmp_path, number, cached=True)).front.versions for number in (1, 2)]
    plain = [generation_of(swap.release(tmp_path, number)).front.versions for number in (1, 2)]
    assert plain == [{"1"}, {"1"}]
    assert versions[0] != versions[1] and all(len(one) == 1 for one in versions)


@pytest.mark.parametrize(
    ("model", "ensemble", "ours"),
    [
        ("digits.fusion.0123456789ab", "digits", True),
        ("digits.0123456789ab", "digits", True),
        ("digits_modalities.0123456789ab", "digits", True),
        ("digits.fusion", "digits", False),
        ("digits", "digits", False),
        ("digits_large.fusion.0123456789ab", "digits", False),
        ("digits.fusion.0123456789AB", "digits", False),
        ("other.0123456789ab", "digits", False),
    ],
)
def test_what_a_promotion_may_remove(model: str, ensemble: str, ours: bool) -> None:
    assert belongs(model, ensemble) is ours
    assert plain_name(plain_name(model)) == plain_name(model)


def test_what_the_step_of_optional_inputs_asks_for_is_known() -> None:
    options = '{"inputs": {"audio": {"model": "d.ear", "steps": {"model": "d.ear_steps"}}, "text": {"model": "d.eye"}}}'
    config = {"parameters": {"mmdeploy.options": {"string_value": options}}}
    assert sorted(asked_models(config)) == ["d.ear", "d.ear_steps", "d.eye"]
    for other in ("", "{}", "[]", '{"inputs": 3}', "no JSON"):
        assert not [*asked_models({"parameters": {"mmdeploy.options": {"string_value": other}}})]
