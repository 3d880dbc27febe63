"""The engine of machine code: what it refuses and why, before and without the compiler. Built by the contract tests."""

import json
import zipfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from mmdeploy import engines, testing
from mmdeploy.choice.options import AutoEngine
from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.contracts import INSTANCE_KIND, no_progress
from mmdeploy.core.errors import EngineError, EnvironmentUnfitError
from mmdeploy.core.sizes import Size
from mmdeploy.core.target import Target, this_hardware, usable_cores
from mmdeploy.engines import aot_inductor as engine
from mmdeploy.engines import aot_package
from mmdeploy.planning.steps import Step
from mmdeploy.testing import steps
from mmdeploy.triton.lint import Severity, lint
from mmdeploy.worker.run_step import run_method
from mmdeploy.worker.task import Task

SPEC = (TensorSpec("x", "FP32", (4,)),)


def package(path: Path, **notes: str) -> Path:
    """A package that says something of itself, and holds no code."""
    with zipfile.ZipFile(path, "w") as written:
        written.writestr("model/data/aotinductor/model/abc.wrapper_metadata.json", json.dumps(notes))
    return path


def opened(path: Path):
    return aot_package.open_package(path, inputs=SPEC, outputs=SPEC, threads=1)


def test_it_is_served_with_the_threads_that_it_was_compiled_for() -> None:
    assert engine.serving(engine.Options(threads=3)) == {"INTRA_OP_THREAD_COUNT": "3", INSTANCE_KIND: "KIND_CPU"}
    assert engine.serving(engine.Options(threads="cores"))["INTRA_OP_THREAD_COUNT"] == str(usable_cores())


@pytest.mark.parametrize("bad", [{"threads": 0}, {"precision": "fp16"}, {"provider": "cuda"}])
def test_options_refuse(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        engine.Options.model_validate(bad)


def test_int8_is_refused_with_who_runs_it() -> None:
    with pytest.raises(ValidationError, match="INT8 is written by quantize and run by onnxruntime, openvino"):
        engine.Options(precision="int8")


def test_auto_tries_it_only_where_it_is_named() -> None:
    assert "aot_inductor" not in AutoEngine().in_order()
    assert AutoEngine(engines=("aot_inductor", "openvino")).in_order() == ("openvino", "aot_inductor")
    assert set(engines.METHODS) - set(AutoEngine().in_order()) == engines.SLOW_TO_BUILD
    assert [one.options.precision for one in engine.candidates(Target.CPU)] == ["fp32", "bf16"]
    assert not engine.candidates(Target.CUDA)


def test_without_a_compiler_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(EnvironmentUnfitError, match=r"no C\+\+ compiler \(no-such-compiler\): install g\+\+"):
        engine.run(steps.source(tmp_path / "source", "torch"), engine.Options(), testing.context(tmp_path / "work"))
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "(g++)" in str(engine.unbuildable(engine.Options()))


def test_batch_and_sizes_that_vary_stay_open_where_it_is_traced(tmp_path: Path) -> None:
    from dataclasses import replace

    source = steps.source(tmp_path / "source", "torch")
    tokens, pixels = source.inputs
    tokens = replace(tokens, shape=(-1, 8), sizes=(Size("length", 2, 16), None))
    source = replace(source, inputs=(pixels, tokens))
    program = engine._traced(source, engine.Options(), testing.context(tmp_path / "work"))
    shapes = [
        tuple(node.meta["val"].shape)
        for node in program.graph.nodes
        if node.op == "placeholder" and "values" in node.name
    ]
    (batch, eight), (same, length, deep) = shapes
    assert (eight, deep) == (8, 8) and batch == same
    assert not isinstance(batch, int) and not isinstance(length, int)
    bounds = program.range_constraints[length.node.expr]
    assert (int(bounds.lower), int(bounds.upper)) == (2, 16)


def test_bf16_computes_products_in_bfloat16_and_answers_in_the_types_that_it_had(tmp_path: Path) -> None:
    import torch

    source, feed = steps.source(tmp_path / "source", "torch"), steps.examples(3)
    values = [torch.from_numpy(feed[spec.name]) for spec in source.inputs]
    program = engine._traced(source, engine.Options(precision="bf16"), testing.context(tmp_path / "work"))
    found = dict(zip(steps.answers(feed), program.module()(*values), strict=True))
    for name, right in steps.answers(feed).items():
        assert found[name].dtype is torch.float32
        assert float((found[name].detach() - torch.from_numpy(right)).abs().max()) < 0.02
    assert not torch.allclose(found["scores"], torch.from_numpy(steps.answers(feed)["scores"]), atol=1e-5)


def test_a_module_that_cannot_be_traced_is_an_error_of_the_engine(tmp_path: Path, monkeypatch) -> None:
    import torch

    class Branches(torch.nn.Module):
        def forward(self, tokens, pixels):
            return (tokens, pixels) if tokens.sum() > 0 else (pixels, tokens)

    monkeypatch.setattr(engine, "load_component", lambda artifact: Branches())
    with pytest.raises(EngineError, match=r"torch\.export cannot trace the module") as caught:
        engine.run(steps.source(tmp_path / "source", "torch"), engine.Options(), testing.context(tmp_path / "work"))
    assert "onnxruntime" in str(caught.value.hint)


def test_code_for_another_processor_is_refused_in_words(tmp_path: Path) -> None:
    here = this_hardware().isa
    other = package(tmp_path / "model.pt2", mmdeploy_isa=" ".join((*here, "avx1024_x")))
    assert aot_package.lacking(other, here) == ("avx1024_x",)
    with pytest.raises(EnvironmentUnfitError, match="a processor with avx1024_x, and this one has not"):
        opened(other)


def test_a_step_that_was_planned_for_another_processor_does_not_run_here(tmp_path: Path) -> None:
    """A plan may be carried out by other machines, and what they make is kept under its keys."""
    identity = {"processor": "sparc64 vis3"}
    step = Step("enc/engine", "enc", "engine", "aot_inductor", {}, (), identity)
    task = Task(step, None, tmp_path, {}, 1)  # type: ignore[arg-type]
    with pytest.raises(EnvironmentUnfitError, match=r"enc/engine is machine code, planned for sparc64 vis3, and this"):
        run_method(task, tmp_path, no_progress)


def test_another_torch_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnfitError, match=r"was built with torch 1\.9\.0\+cpu, and torch") as caught:
        opened(package(tmp_path / "model.pt2", mmdeploy_isa="", mmdeploy_torch="1.9.0+cpu"))
    assert "torch==1.9.0" in str(caught.value.hint)


def test_other_tensors_are_refused(tmp_path: Path) -> None:
    import torch

    notes = {"mmdeploy_torch": torch.__version__, "mmdeploy_inputs": '["y"]', "mmdeploy_outputs": '["x"]'}
    with pytest.raises(EngineError, match=r"the package has the inputs \['y'\], and \['x'\] are asked for"):
        opened(package(tmp_path / "model.pt2", **notes))


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    plain = tmp_path / "model.pt2"
    plain.write_bytes(b"no zip")
    with pytest.raises(EngineError, match=r"model\.pt2 is no package"):
        opened(plain)
    with zipfile.ZipFile(plain, "w") as written:
        written.writestr("readme", "")
    with pytest.raises(EngineError, match="it has no metadata"):
        opened(plain)


def test_lint_warns_of_code_for_another_processor(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    (folder / "1").mkdir(parents=True)
    tensor = '[{ name: "x" data_type: TYPE_FP32 dims: [4] }]'
    config = f'backend: "aot_inductor"\ndefault_model_filename: "model.pt2"\ninput {tensor}\noutput {tensor}\n'
    (folder / "config.pbtxt").write_text(config)
    package(folder / "1" / "model.pt2", mmdeploy_isa="avx1024_x")
    (found,) = lint(tmp_path)
    assert (found.rule, found.severity) == ("processor", Severity.WARNING)
    assert "avx1024_x" in found.message
    package(folder / "1" / "model.pt2", mmdeploy_isa=this_hardware().isa[0] if this_hardware().isa else "")
    assert not lint(tmp_path)
