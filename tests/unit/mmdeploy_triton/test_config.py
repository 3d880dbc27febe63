"""config.pbtxt through the protobuf: golden texts, round trips, and messages for what cannot be read.

After a change on purpose, rewrite the goldens with
``UPDATE_GOLDEN=1 pytest tests/unit/mmdeploy_triton/test_config.py`` and read the diff.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import artifact, ensembles, three_components

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.contracts import INSTANCE_KIND
from mmdeploy.core.errors import UsageError
from mmdeploy.triton.config import (
    WARMUP_FOLDER,
    ServedComponent,
    ServedEnsemble,
    component_config,
    ensemble_config,
    parse,
    to_text,
    warmup_sample,
)
from mmdeploy.triton.lint import lint
from mmdeploy.triton.options import InstanceGroup, Serving, Warmup
from mmdeploy.triton.repository import stage, verify

GOLDEN = Path(__file__).parents[2] / "golden" / "triton"


@pytest.mark.parametrize("name", ["image_encoder", "audio_encoder", "fusion", "spoken_digits"])
def test_golden(name, tmp_path):
    ensemble = three_components(tmp_path)
    configs = {component.name: component_config(component) for component in ensemble.components}
    text = to_text((configs | {ensemble.name: ensemble_config(ensemble)})[name])
    golden = GOLDEN / f"{name}.config.pbtxt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize(
    ("asked", "engine", "written"),
    [
        ("auto", {INSTANCE_KIND: "KIND_CPU"}, "KIND_CPU"),  # auto would be the GPU on a server that has one
        ("auto", {INSTANCE_KIND: "KIND_GPU"}, "KIND_GPU"),
        ("auto", {}, "KIND_AUTO"),
        ("cpu", {INSTANCE_KIND: "KIND_GPU"}, "KIND_CPU"),
        ("gpu", {INSTANCE_KIND: "KIND_CPU"}, "KIND_GPU"),
    ],
)
def test_instances_run_where_the_engine_does_unless_the_recipe_says_otherwise(tmp_path, asked, engine, written):
    specs = (TensorSpec("x", "FP32", (4,)),)
    serving = Serving(instance_group=InstanceGroup(kind=asked))
    plain = artifact(tmp_path, "plain", specs, specs)
    component = ServedComponent("plain", "b", "model.onnx", plain, {"x": "x"}, {"x": "y"}, serving, engine)
    config = component_config(component)
    [group] = config.instance_group
    assert group.Kind.Name(group.kind) == written
    assert not config.parameters


def test_the_ensemble_takes_the_smallest_batch_and_names_versions(tmp_path):
    config = ensemble_config(three_components(tmp_path))
    assert config.max_batch_size == 16
    assert [step.model_version for step in config.ensemble_scheduling.step] == [1, 1, 3]
    assert not config.instance_group and not config.HasField("optimization") and not config.model_warmup


def test_without_batching_the_batch_is_a_dimension_and_the_zero_is_written_out(tmp_path):
    specs = (TensorSpec("x", "FP32", (4,)),)
    engine = artifact(tmp_path, "plain", specs, specs)
    serving = Serving(max_batch_size=0, warmup=True)
    component = ServedComponent("plain", "onnxruntime", "model.onnx", engine, {"x": "x"}, {"x": "y"}, serving)
    config = component_config(component)
    assert list(config.input[0].dims) == [-1, 4]
    assert list(config.model_warmup[0].inputs["x"].dims) == [1, 4]
    assert "\nmax_batch_size: 0\n" in to_text(config)


TEXT = (TensorSpec("ids", "INT64", (-1,)), TensorSpec("mean", "FP32", ()))
SAMPLE = {"ids": np.array([3, 4, 5]), "mean": np.float32(2.5).reshape(())}


def text_encoder(folder: Path, warmup: Warmup | bool, *, largest: int = 4, known: bool = True) -> ServedComponent:
    return ServedComponent(
        "text", "onnxruntime", "model.onnx", artifact(folder, "text", TEXT, TEXT[1:]),
        {"ids": "ids", "mean": "mean"}, {"mean": "y"}, Serving(max_batch_size=largest, warmup=warmup),
        input_rules={"ids": {"range": [1, 9]}}, sample=SAMPLE if known else {},
    )  # fmt: skip


@pytest.mark.parametrize(("largest", "lead"), [(4, []), (0, [1])])
@pytest.mark.parametrize(
    ("warmup", "ids"),
    [(True, [3, 4, 5]), (Warmup(variable_size=5), [3, 4, 5, 1, 1]), (Warmup(variable_size=2), [3, 4])],
)
def test_a_model_is_warmed_up_with_a_sample_of_its_own(tmp_path, warmup, ids, largest, lead):
    component = text_encoder(tmp_path, warmup, largest=largest)
    staged = stage(tmp_path / "staged", ServedEnsemble("e", TEXT, (TensorSpec("y", "FP32", ()),), (component,)))
    asked = component_config(component).model_warmup[0].inputs
    for name, dims, values in (("ids", [*lead, len(ids)], ids), ("mean", [*lead, 1], [2.5])):
        assert list(asked[name].dims) == dims
        raw = (staged.path / "text" / WARMUP_FOLDER / asked[name].input_data_file).read_bytes()
        assert np.frombuffer(raw, SAMPLE[name].dtype).tolist() == values
    assert lint(staged.path) == () and verify(staged.path) == ()


def test_without_a_sample_a_model_is_warmed_up_with_zeros(tmp_path):
    component = text_encoder(tmp_path, Warmup(variable_size=2), known=False)
    assert component_config(component).model_warmup[0].inputs["ids"].zero_data
    assert not warmup_sample(component)


@pytest.mark.parametrize(
    ("data", "says"), [("zero", r"zeros are outside the declared range \[1, 9\]"), ("random", "do not keep to")]
)
def test_what_the_model_would_refuse_is_not_its_warm_up(tmp_path, data, says):
    with pytest.raises(UsageError, match=f"text: serving.warmup of input 'ids': .*{says}"):
        component_config(text_encoder(tmp_path, Warmup(data=data)))


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ('name: "a"\nmax_batch: 3\n', "m/config.pbtxt:2", 'no field named "max_batch"'),
        ('name: "a"\n\ninput { data_type: FP32 }\n', "m/config.pbtxt:3", "no value named FP32"),
        ('name: "a"\nmax_batch_size: "8"\n', "m/config.pbtxt:2", "Couldn't parse integer"),
        ("dynamic_batching { }\nsequence_batching { }\n", "m/config.pbtxt:2", "oneof"),
        ("input {\n", "m/config.pbtxt:1", "Expected"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_and_line(text, where, says):
    with pytest.raises(UsageError) as caught:
        parse(text, "m/config.pbtxt")
    assert caught.value.message.startswith(f"{where}: ") and says in caught.value.message


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_ensemble_reads_back_the_same_and_lints_clean(data):
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ensemble = data.draw(ensembles(folder / "artifacts"))
        for config in [ensemble_config(ensemble), *map(component_config, ensemble.components)]:
            assert parse(to_text(config), "drawn") == config
        staged = stage(folder / "staged", ensemble)
        # What is drawn may be cached unwisely: `cached` keeps recipes from that.
        assert [finding for finding in lint(staged.path) if finding.rule != "cache-mixed"] == []
        assert verify(staged.path) == ()
