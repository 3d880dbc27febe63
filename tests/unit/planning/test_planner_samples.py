"""Sets of samples in a plan: how many are recorded, and what a change of them touches."""

import hashlib
from pathlib import Path

import pytest
from test_planner import changed, fixed_fingerprints, fixed_inputs, remember_all

from mmdeploy.core.store import Store
from mmdeploy.data.contents import content, digest_of
from mmdeploy.planning.planner import make_plan
from mmdeploy.planning.recipe_inputs import RecipeInputs
from mmdeploy.planning.steps import EXAMPLES, ORIGINAL, Contents, Plan, explain, recorded_in
from mmdeploy.recipe.loader import load_recipe

TINY = Path(__file__).parents[2] / "tiny_recipe" / "recipe.yaml"
VALIDATED = ("data.validation=data.py:validation", "data.training=data.py:training")
AUTO = "components.left.quantize={method: auto, samples: 64}"


def same_samples(key: str, first: int | None) -> str | None:
    """Know every set, whatever its step's key: the same number of samples is the same content."""
    return f"content of the first {first}"


def plan_of(*overrides: str, contents: Contents = same_samples, **changes: object) -> Plan:
    return make_plan(load_recipe(TINY, overrides), fixed_fingerprints(**changes), contents=contents)


def edited(*keys: str) -> RecipeInputs:
    return fixed_inputs(**dict.fromkeys(keys, "edited"))


def test_data_code_that_gives_the_same_samples_touches_nothing_else() -> None:
    before = plan_of(*VALIDATED, AUTO)
    for key in ("calibration", "evaluation", "validation"):
        assert changed(before, plan_of(*VALIDATED, AUTO, inputs=edited(key))) == {f"data/{key}"}


def test_other_samples_touch_those_who_read_them() -> None:
    def later_ones(key: str, first: int | None) -> str | None:
        return "others" if key == calibration and first != EXAMPLES else same_samples(key, first)

    def all_of_them(key: str, first: int | None) -> str | None:
        return "others" if key == calibration else same_samples(key, first)

    before = plan_of(*VALIDATED, AUTO)
    calibration = before.step("data/calibration").key
    touched = changed(before, plan_of(*VALIDATED, AUTO, contents=later_ones))
    assert touched == {"left/quantize", "left/engine", "right/quantize", "right/engine"}
    touched = changed(before, plan_of(*VALIDATED, AUTO, contents=all_of_them))
    assert touched == {step.id for step in before.steps if step.component != "data" and step.id != ORIGINAL}


def test_the_most_that_anybody_wants_is_recorded_and_each_depends_on_its_own_share() -> None:
    before = plan_of("components.left.quantize.samples=32")
    assert before.step("data/calibration").options == {"samples": 64}
    more = plan_of("components.left.quantize.samples=100")
    assert more.step("data/calibration").options == {"samples": 100}
    assert changed(before, more) == {"data/calibration", "left/quantize", "left/engine"}


def test_who_only_times_engines_wants_no_more_than_it_uses() -> None:
    timed = ("components.right.quantize=null", "components.left.keep=if_it_pays")
    few = plan_of(*timed, "components.left.quantize.samples=8")
    assert few.step("left/engine").kind == "select"
    assert few.step("data/calibration").options == {"samples": 32}


UNREAD = ("components.left.quantize=null", "components.right.quantize=null", "gates=[]")


@pytest.mark.parametrize(
    ("overrides", "recorded"),
    [
        (VALIDATED, {"data/calibration": {"samples": EXAMPLES, "only_examples": True}}),
        (("data.calibration=null",), {"data/evaluation": {"samples": EXAMPLES, "only_examples": True}}),
        (("data.calibration=null", "data.evaluation=null"), {}),
    ],
)
def test_of_sets_that_nobody_else_reads_only_examples_are_recorded(
    overrides: tuple[str, ...], recorded: dict[str, object]
) -> None:
    plan = plan_of(*UNREAD, *overrides)
    assert {step.id: step.options for step in plan.steps if step.component == "data"} == recorded
    assert all({*recorded} <= {*step.needs} for step in plan.steps if step.component != "data")


def test_examples_make_no_set_longer_than_who_reads_it_wants() -> None:
    few = plan_of(*UNREAD[:1], "components.right.quantize.samples=8")
    assert few.step("data/calibration").options == {"samples": EXAMPLES}
    gated = plan_of("data.calibration=null", "components.left.quantize=null", "components.right.quantize=null")
    assert gated.step("data/evaluation").options == {}
    assert "input data/evaluation" in gated.step("left/export").identity


def test_searches_hold_their_split_against_that_of_the_gates() -> None:
    plan = plan_of(*VALIDATED, AUTO)
    assert plan.step("data/validation").needs == ("data/evaluation",)
    assert plan.step("data/evaluation").needs == ()
    trained = plan_of(*VALIDATED, "components.left.recover={method: finetune}").step("left/recover")
    assert trained.needs == ("data/calibration", "data/evaluation", "data/validation")
    assert trained.source is None
    assert "code of training" in trained.identity


def test_whether_gates_need_labels_is_part_of_the_evaluation_set_and_of_nothing_else() -> None:
    parity = "gates=[{method: parity, min_cosine: 0.9}]"
    assert changed(plan_of(), plan_of(parity)) == {"data/evaluation"}


@pytest.mark.parametrize("name", ["data", "original"])
def test_a_component_may_be_called_like_the_sets(tiny_recipe: Path, name: str) -> None:
    text = tiny_recipe.read_text().replace("  left:\n    module: left", f"  {name}:\n    module: left")
    tiny_recipe.write_text(
        text.replace("quantize: {method: static", "recover: {method: finetune}\n    quantize: {method: static")
    )
    plan = make_plan(load_recipe(tiny_recipe, VALIDATED), fixed_fingerprints(), contents=same_samples)
    assert plan.step(f"{name}/recover").source is None
    assert plan.step(f"{name}/export").source == f"{name}/recover"
    assert plan.step(f"{name}/quantize").source == f"{name}/export"
    assert len({step.id for step in plan.steps}) == len(plan.steps)


def recorded(store: Store, key: str, digests: bytes) -> None:
    """Put a set into a store, as far as a plan looks at it."""
    folder = store.entry(key)
    folder.mkdir(exist_ok=True)
    (folder / "digests.bin").write_bytes(digests)
    (folder / "samples.json").write_text(f'{{"content": "{digest_of(digests)}"}}')


def test_a_plan_says_what_only_the_samples_can_tell(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def planned(**changes: object) -> Plan:
        return plan_of(contents=recorded_in(store), **changes)

    for _ in range(2):  # the keys of readers are known when the sets are
        for step_id in ("data/calibration", "data/evaluation"):
            recorded(store, planned().step(step_id).key, b"0123456789abcdef" * 64)
        remember_all(planned(), store)
    assert all(decision.reuse for decision in explain(planned(), store))

    changes = {"inputs": edited("calibration"), "machine": "any"}
    told = {one.step.id: one for one in explain(planned(**changes), store) if not one.reuse}
    assert {step_id: one.why for step_id, one in told.items() if one.perhaps} == {
        **{f"{name}/export": "data/calibration may change" for name in ("left", "right", "fusion")},
        **{f"{name}/reference": f"{name}/export may change" for name in ("left", "right", "fusion")},
        **{f"{name}/quantize": f"data/calibration may change; {name}/export may change" for name in ("left", "right")},
        "left/engine": "left/quantize may change", "right/engine": "right/quantize may change",
        "fusion/engine": "fusion/export may change",
    }  # fmt: skip
    assert told.keys() - {step_id for step_id, one in told.items() if one.perhaps} == {"data/calibration"}

    recorded(store, planned(**changes).step("data/calibration").key, b"0123456789abcdef" * 64)
    assert all(decision.reuse for decision in explain(planned(**changes), store))

    version = fixed_fingerprints().versions | {"onnxruntime": "2"}
    certain = {one.step.id: one for one in explain(planned(inputs=edited("evaluation"), versions=version), store)}
    assert not certain["left/quantize"].perhaps and not certain["original/outputs"].reuse
    assert certain["original/outputs"].perhaps


def test_the_content_of_the_first_samples_needs_no_arrays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    recorded(store, "key", bytes(range(48)))
    contents = recorded_in(store)
    assert contents("key", 2) == hashlib.sha256(bytes(range(32))).hexdigest()
    assert contents("key", None) == contents("key", 3) == content(store.entry("key"), 9)
    assert contents("another", None) is None and contents("another", 2) is None
    (store.entry("key") / "samples.json").write_text("{")
    assert contents("key", None) is None
