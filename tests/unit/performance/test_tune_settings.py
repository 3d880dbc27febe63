"""What `tune` makes of settings: configurations to try, a variant to build, a verdict."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.errors import EXIT_USAGE, UsageError
from mmdeploy.performance import variant
from mmdeploy.performance.contest import Goal, Outcome, Side
from mmdeploy.performance.settings import Setting, present, sections, served_with
from mmdeploy.performance.tune import Tuned
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.triton.config import parse

CONFIG = """name: "digits.left" backend: "onnxruntime" max_batch_size: 16
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { preferred_batch_size: 4 max_queue_delay_microseconds: 500 }
parameters { key: "intra_op_thread_count" value { string_value: "1" } }"""


def test_a_stream_is_refused_before_anything_is_served(capsys):
    recipe = Path(__file__).parents[2] / "stream_recipe" / "recipe.yaml"
    assert run(commands, ["tune", str(recipe), "--p95-ms", "5"]) == EXIT_USAGE
    assert "stream: what takes samples in chunks is not tuned" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def release(tmp_path: Path) -> Path:
    for model, text in (("digits.left", CONFIG), ("digits", 'name: "digits" platform: "ensemble" max_batch_size: 16')):
        (tmp_path / "release" / model / "1").mkdir(parents=True)
        (tmp_path / "release" / model / "config.pbtxt").write_text(text)
    (tmp_path / "release" / "digits.left" / "1" / "model.onnx").write_bytes(b"engine")
    (tmp_path / "release" / "report.json").write_text("{}")
    return tmp_path / "release"


def test_a_release_is_served_with_other_settings_and_the_same_engines(release: Path) -> None:
    before = {path: path.read_bytes() for path in release.rglob("*") if path.is_file()}
    setting = Setting(delay_us=2000, preferred=(8, 16), instances=2, threads=4, engine="onnxruntime")
    with served_with(release, "digits", {"left": setting}) as repository:
        config = parse((repository / "digits.left" / "config.pbtxt").read_text(), "config")
        assert config.dynamic_batching.max_queue_delay_microseconds == 2000
        assert list(config.dynamic_batching.preferred_batch_size) == [8, 16]
        assert [group.count for group in config.instance_group] == [2]
        assert config.parameters["intra_op_thread_count"].string_value == "4"
        assert config.max_batch_size == 16, "what clients may send stays"
        engine = repository / "digits.left" / "1" / "model.onnx"
        assert engine.resolve() == release / "digits.left" / "1" / "model.onnx"
    with served_with(release, "digits", {"left": Setting()}) as repository:
        config = parse((repository / "digits.left" / "config.pbtxt").read_text(), "config")
        assert not config.HasField("dynamic_batching")
        assert [group.count for group in config.instance_group] == [1], "what is not said stays"
    assert not repository.exists()
    assert {path: path.read_bytes() for path in release.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("engine", "parameter", "threads"),
    [("onnxruntime", "intra_op_thread_count", 3), ("openvino", "INFERENCE_NUM_THREADS", 3),
     ("aot_inductor", "INTRA_OP_THREAD_COUNT", None), ("auto", "INFERENCE_NUM_THREADS", None)],
)  # fmt: skip
def test_threads_are_those_of_the_engine_that_was_named(
    tiny_recipe: Path, tmp_path: Path, engine: str, parameter: str, threads: int | None
) -> None:
    """Those of a compiled engine are compiled in, and what is chosen by measuring is chosen with its threads."""
    said = engine if engine == "auto" else f"{{method: {engine}}}"
    parts = ("left", "right", "fusion")
    plain = [f"components.{name}.quantize=null" for name in ("left", "right")] if engine == "aot_inductor" else []
    sets = [*(f"components.{name}.engine={said}" for name in parts), "data.validation=data.py:calibration", *plain]
    recipe = load_recipe(tiny_recipe, sets)
    for name in recipe.components:
        folder = tmp_path / "release" / f"{recipe.name}.{name}"
        folder.mkdir(parents=True)
        (folder / "1").mkdir()
        (folder / "config.pbtxt").write_text(
            f'name: "{folder.name}" max_batch_size: 16 '
            f'parameters {{ key: "{parameter}" value {{ string_value: "3" }} }}'
        )
    found = present(recipe, tmp_path / "release")
    assert {setting.threads for setting in found.values()} == {threads}
    more = {name: replace(setting, threads=4) for name, setting in found.items() if setting.threads}
    told = {name: section["engine"] for name, section in sections(found, more).items()} if more else {}
    assert [options["method"] for options in told.values()] == ([engine] * 3 if threads else [])
    load_recipe(tiny_recipe, [f"components.{name}.engine={options}" for name, options in told.items()])


def test_rows_are_asked_for_together_as_the_build_of_the_settings_would(tmp_path: Path) -> None:
    options = {"inputs": {"rest": {"model": "d.rest", "joins": False}}, "when": "max(x) < 1"}
    configs = {
        "d": 'platform: "ensemble"',
        "d.cascade": f"parameters {{ key: 'mmdeploy.options' value {{ string_value: '{json.dumps(options)}' }} }}",
        "d.rest": """platform: "ensemble" ensemble_scheduling { step { model_name: "d.read" }
            step { model_name: "d.right" } step { model_name: "d.fusion" } }""",
        "d.read": "", "d.right": "", "d.fusion": "dynamic_batching { }",
    }  # fmt: skip
    for model, text in configs.items():
        (tmp_path / model / "1").mkdir(parents=True)
        (tmp_path / model / "config.pbtxt").write_text(f'name: "{model}" max_batch_size: 8 {text}')

    def joins(right: Setting, fusion: Setting) -> bool:
        return said({"right": right, "fusion": fusion})

    def said(settings: dict[str, Setting]) -> bool:
        with served_with(tmp_path, "d", settings) as repository:
            config = parse((repository / "d.cascade" / "config.pbtxt").read_text(), "config")
        found = json.loads(config.parameters["mmdeploy.options"].string_value)
        assert found["when"] == options["when"]
        return bool(found["inputs"]["rest"]["joins"])

    assert joins(Setting(delay_us=500), Setting(delay_us=0))
    assert not joins(Setting(delay_us=500), Setting())
    assert not said({"left": Setting(delay_us=500)})  # as it was built, where no part of it is served otherwise


def test_only_what_differs_is_written() -> None:
    left, middle = (
        Setting(delay_us=500, threads=1, instances=1, engine="onnxruntime"),
        Setting(threads=1, engine="openvino"),
    )
    before = {"left": left, "middle": middle, "right": Setting()}
    assert sections(before, before) == {}
    after = {
        "left": replace(left, delay_us=None, threads=2),
        "middle": replace(middle, threads=2),
        "right": Setting(delay_us=0, preferred=(4,)),
    }
    assert sections(before, after) == {
        "left": {"serving": {"dynamic_batching": None}, "engine": {"method": "onnxruntime", "intra_op_threads": 2}},
        "middle": {"engine": {"method": "openvino", "threads": 2}},
        "right": {"serving": {"dynamic_batching": {"max_queue_delay_us": 0, "preferred_batch_size": [4]}}},
    }


def test_a_variant_is_written_whole_and_the_recipe_keeps_its_bytes(tiny_recipe: Path) -> None:
    text, out = tiny_recipe.read_bytes(), tiny_recipe.with_name("tuned.yaml")
    variant.require_writable(tiny_recipe, out)
    serving = {"dynamic_batching": {"max_queue_delay_us": 2000}, "instance_group": {"count": 2}}
    variant.write(tiny_recipe, out, {"left": {"serving": serving}}, ["p95 3 ms"])
    loaded = load_recipe(out)
    assert loaded.name == "two_towers", "it is published in the place of its base"
    batching, group = (
        loaded.components["left"].serving.dynamic_batching,
        loaded.components["left"].serving.instance_group,
    )
    assert batching is not None and batching.max_queue_delay_us == 2000
    assert group is not None and group.count == 2
    assert loaded.components["right"] == load_recipe(tiny_recipe).components["right"]
    assert "# p95 3 ms\n" in out.read_text()
    variant.require_writable(tiny_recipe, out)  # what tune wrote it may write again
    with pytest.raises(Exception, match="left"):
        variant.write(tiny_recipe, out, {"left": {"serving": {"dynamic_batching": {"delay": 3}}}}, [])
    assert load_recipe(out) == loaded, "and what is no recipe takes the place of nothing"
    assert tiny_recipe.read_bytes() == text
    assert sorted(path.name for path in tiny_recipe.parent.glob("*.yaml")) == [
        "cascade.yaml",
        "recipe.yaml",
        "tuned.yaml",
    ]
    assert not [path for path in tiny_recipe.parent.glob(".*") if path.suffix == ".yaml"]


def test_what_could_not_be_written_is_told_before_anything_is_measured(tiny_recipe: Path, tmp_path: Path) -> None:
    mine, other = tiny_recipe.with_name("mine.yaml"), tmp_path / "elsewhere.yaml"
    mine.write_text("base: recipe.yaml\nname: mine\n")
    with pytest.raises(UsageError, match="did not write it"):
        variant.require_writable(tiny_recipe, mine)
    for out in (other, tiny_recipe, tiny_recipe.with_name("tuned.txt")):
        with pytest.raises(UsageError, match="is no other YAML file beside"):
            variant.require_writable(tiny_recipe, out)
    with pytest.raises(UsageError, match="has a base") as refused:
        variant.require_writable(mine, tiny_recipe.with_name("tuned.yaml"))
    assert refused.value.hint == "tune its base, recipe.yaml, or measure only: --dry-run"


def side(verdict: Any) -> Side:
    return Side((10.0, 9.0, 11.0), 100.0, verdict)


@pytest.mark.parametrize(
    ("was", "now", "gain", "found", "verdict"),
    [
        ("met", "met", (1.3, 1.1, 1.5), True, "better"),
        ("met", "met", (1.3, 0.9, 1.7), True, "as good"),
        ("met", "met", (1.3, 1.1, 1.5), False, "as good"),
        ("missed", "met", (1.3, 0.9, 1.7), True, "better"),
        ("missed", "undecided", (1.3, 1.1, 1.5), True, "undecided"),
        ("missed", "missed", (1.3, 1.1, 1.5), True, "missed"),
        ("undecided", "met", (1.3, 0.9, 1.7), True, "undecided"),
        ("undecided", "met", (1.3, 1.1, 1.7), True, "better"),
        ("met", "missed", (1.3, 1.1, 1.5), True, "as good"),
    ],
)
def test_only_what_is_surely_better_or_alone_keeps_the_limit_is_written(
    was: str, now: str, gain: tuple[float, float, float], found: bool, verdict: str
) -> None:
    before = {"left": Setting()}
    best = {"left": Setting(delay_us=0)} if found else before
    outcome = Outcome(side(was), side(now), gain)
    assert Tuned(Goal(20.0), before, best, (), outcome).verdict == verdict
