"""What `--set` options of a sweep mean, and that every value is checked before anything runs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.core.errors import RecipeError, UsageError
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.studies.domains import Choices, Range
from mmdeploy.studies.space import Space, as_written, read_space

RECIPE = Path(__file__).parents[2] / "tiny_recipe" / "recipe.yaml"


def _space(*options: str) -> Space:
    return read_space(options, RECIPE)[0]


def test_a_short_path_means_all_components_that_take_it() -> None:
    space = _space("quantize.calibrator=minmax,mse", "components.left.quantize.samples=16..64:16", "gates=[]")
    calibrator, samples = space.dimensions
    assert calibrator.paths == ("components.left.quantize.calibrator", "components.right.quantize.calibrator")
    assert calibrator.domain == Choices(("minmax", "mse"))
    assert samples.paths == ("components.left.quantize.samples",)
    assert samples.domain == Range(16, 64, 16, integral=True)
    assert space.fixed == ("gates=[]",)
    assert space.size == 8
    assert space.overrides({"quantize.calibrator": "mse"}) == (
        "gates=[]", "components.left.quantize.calibrator=mse", "components.right.quantize.calibrator=mse",
    )  # fmt: skip
    assert len({tuple(sorted(point.items())) for point in space.grid(8)}) == 8


def test_a_whole_section_can_be_varied() -> None:
    space = _space("quantize=null,{method: dynamic, per_channel: true}", "keep=always,if_it_pays")
    section, keep = space.dimensions
    assert section.domain.corners == ("null", "{method: dynamic, per_channel: true}")
    assert section.paths == ("components.left.quantize", "components.right.quantize"), "fusion is not quantized"
    assert keep.paths == ("components.left.keep", "components.right.keep", "components.fusion.keep")


def test_students_of_stated_sizes_are_searched_where_the_recipe_has_none(tiny_recipe: Path) -> None:
    data = ("data.training=data.py:training", "data.validation=data.py:validation")
    both = [f"components.{name}.recover.method=distill" for name in ("left", "right")]
    students = [f"components.{name}.recover.student=students.py:small,students.py:tiny" for name in ("left", "right")]
    with pytest.raises(RecipeError, match=r"students\.py"):  # the file is missing, and that is what is told
        read_space((*data, *both, *students), tiny_recipe)
    tiny_recipe.with_name("students.py").write_text("def small(): ...\n\n\ndef tiny(): ...\n")
    space, _ = read_space((*data, *both, *students), tiny_recipe)
    assert space.size == 4 and space.fixed == (*data, *both)
    for point in space.grid(2):
        recipe = load_recipe(tiny_recipe, space.overrides(point))
        found = {f"components.{name}.recover.student": part.recover for name, part in recipe.components.items()}
        assert {key: getattr(found[key], "student", None) for key in point} == point
    with pytest.raises(UsageError, match="'5' cannot be"):
        read_space((*data, both[0], "components.left.recover.student=students.py:small,5"), tiny_recipe)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("quantize.calibrator=minmax,msee", "'msee' cannot be: 'msee' is not accepted; did you mean 'mse'?"),
        ("nix=1,2", "--set nix=1,2: '1' and '2' cannot be: the recipe has no key 'nix'; accepted: "),
        ("quantize.samples=0..64", "--set quantize.samples=0..64: '0' cannot be: must be at least 1"),
        ("quantize.samples=1.5..64", "only whole numbers"),
        ("quantize.samples=64..8", "64 is not below 8"),
        ("quantize.samples=8..64:100", "the step 100 is not above 0 and at most 56"),
        ("quantize.samples=log:0..64", "starts above 0"),
        ("quantize.samples=log:1..64:2", "has no step"),
        ("quantize.samples=a..b", "is no range"),
        ("quantize.samples=8,,16", "a value is empty"),
        ("quantize.samples=8,8", "'8' is there twice"),
        ("quantize.samples", "must be path=values"),
        ("prune.ratio=0.1..0.5", "no component has a section 'prune' that takes 'ratio'"),
        ("components.lft.quantize.samples=1,2", "did you mean 'left'?"),
        ("gates.0.min_cosine=0.8,0.9", "gates must be the same for all of them"),
        ("data.evaluation=data.py:evaluation,data.py:validation", "data must be the same"),
        ("quantize.samples=8", "nothing to search"),
    ],
)
def test_what_is_wrong_is_told_by_option_and_value(option: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        _space(option)
    assert said in raised.value.message
    assert option.split("=")[0] in raised.value.message or said == "nothing to search"


def test_a_path_that_is_varied_twice_is_refused() -> None:
    with pytest.raises(UsageError, match=r"varied by --set quantize\.samples already"):
        _space("quantize.samples=8,16", "components.left.quantize.samples=8,32")


def test_a_fixed_value_that_is_wrong_is_a_problem_of_the_recipe() -> None:
    with pytest.raises(RecipeError, match="calibratr"):
        _space("components.left.quantize.calibratr=mse", "quantize.samples=8,16")


def test_the_recipe_itself_is_a_point_where_it_lies_in_the_space() -> None:
    recipe = load_recipe(RECIPE)
    assert as_written(_space("quantize.samples=8..64"), recipe) == {"quantize.samples": "64"}
    assert as_written(_space("quantize.samples=8..32"), recipe) is None
    assert as_written(_space("quantize.samples=8..64", "keep=always,if_it_pays"), recipe) is None, "fusion's differs"


NUMBERS = st.floats(1e-6, 1e6).map(lambda number: float(f"{number:.4g}"))


@given(st.tuples(NUMBERS, NUMBERS).filter(lambda pair: pair[0] < pair[1]), st.booleans(), st.integers(1, 30))
def test_levels_of_a_range_are_in_it_and_reach_both_ends(pair: tuple[float, float], log: bool, count: int) -> None:
    domain = Range(*pair, log=log)
    numbers = [float(text) for text in domain.levels(count)]
    assert all(pair[0] <= number <= pair[1] for number in numbers)
    assert numbers == sorted(numbers) and len(numbers) <= count
    assert numbers[0] == pair[0]
    if count > 1:
        assert numbers[-1] == pair[1]


@given(st.integers(-50, 50), st.integers(1, 60), st.integers(1, 9), st.integers(2, 40))
def test_steps_are_counted(low: int, span: int, step: int, count: int) -> None:
    step = min(step, span)
    high = low + span // step * step
    domain = Range(low, high, step, integral=True)
    assert domain.size == span // step + 1
    everything = {str(number) for number in range(low, high + 1, step)}
    assert set(domain.levels(domain.size)) == everything
    assert set(domain.levels(count)) <= everything
