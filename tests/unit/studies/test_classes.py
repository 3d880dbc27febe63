"""Classes of hardware: which machine is of which, and what a recipe says for each."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.core.contracts import method_of
from mmdeploy.core.errors import UsageError
from mmdeploy.core.target import Hardware, Target
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.studies.classes import CPUS, read_classes

RECIPE = Path(__file__).parents[2] / "tiny_recipe" / "recipe.yaml"
ISA = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


def _machine(*isa: str) -> Hardware:
    return Hardware("a CPU", 8, isa, 2**34, ())


@pytest.mark.parametrize(
    ("isa", "names"),
    [
        (("avx2",), ["cpu-avx2"]),
        (("avx2", "avx_vnni"), ["cpu-avx-vnni"]),
        (("avx2", "avx512f"), ["cpu-avx512"]),
        (("avx2", "avx512f", "avx512_vnni"), ["cpu-avx512", "cpu-avx512-vnni"]),
        (("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "amx_bf16"), ["cpu-amx"]),
        (("asimddp",), ["cpu-neon"]),
        (("asimddp", "i8mm"), ["cpu-i8mm"]),
        ((), []),
    ],
)
def test_a_machine_is_of_the_best_class_that_it_reaches(isa: tuple[str, ...], names: list[str]) -> None:
    assert [name for name, one in CPUS.items() if one.is_here(_machine(*isa), ())] == names


@given(st.sets(st.sampled_from(ISA)))
def test_more_instructions_never_make_a_machine_of_two_tiers(isa: set[str]) -> None:
    here = {name for name, one in CPUS.items() if one.is_here(_machine(*isa), ())}
    assert len(here - {"cpu-avx512-vnni"}) <= 1, "avx512-vnni is a part of avx512"


def test_gpus_are_of_their_compute_capability_and_get_the_engine_that_is_made_for_them() -> None:
    data_center, rtx, asked, cuda = read_classes("sm80,sm89,sm90:tensorrt,sm75:cuda")
    assert (data_center.target, rtx.target, asked.target, cuda.target) == (
        Target.TENSORRT, Target.TENSORRT_RTX, Target.TENSORRT, Target.CUDA,
    )  # fmt: skip
    assert [one.ahead_of_time for one in (data_center, rtx, asked, cuda)] == [False, True, False, False]
    assert rtx.is_here(_machine(), ("SM86", "SM89")) and not rtx.is_here(_machine("avx2"), ("SM86",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cpu-avx51", "did you mean 'cpu-avx512'?"),
        ("cuda", "there is no class 'cuda'"),
        ("sm89,sm89:cuda", "sm89 is there twice"),
        ("sm89:cpu", "accepted: cuda, tensorrt, tensorrt_rtx"),
        ("cpu-amx:cpu", "has the target cpu"),
        ("sm90:tensorrt_rtx", "TensorRT for RTX builds for SM75"),
        ("", "there is no class ''"),
    ],
)
def test_a_class_that_is_unknown_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_classes(text)
    assert said in raised.value.message


def test_engines_of_other_machines_give_way_to_the_targets_own() -> None:
    (cpu,), (rtx,), (tensorrt,) = (read_classes(name) for name in ("cpu-amx", "sm89", "sm80"))
    engine = "components.left.engine={method: tensorrt_rtx, precision: fp16, compute_capabilities: [SM86]}"
    mixed = (engine, "components.right.engine={method: openvino}", "target=tensorrt_rtx")
    recipe = load_recipe(RECIPE, mixed)
    found = load_recipe(RECIPE, (*mixed, *cpu.overrides(recipe)))
    assert found.target is Target.CPU
    assert [method_of(found.engine_options(name)) for name in found.components] == [
        "onnxruntime", "openvino", "onnxruntime",
    ]  # fmt: skip
    found = load_recipe(RECIPE, (*mixed, *rtx.overrides(recipe)))
    options = [found.engine_options(name).model_dump() for name in found.components]
    assert {one["method"] for one in options} == {"tensorrt_rtx"}
    assert [one["precision"] for one in options] == ["fp16", "fp32", "fp32"], "what the recipe says of it stays"
    assert {one["compute_capabilities"] for one in options} == {("SM89",)}
    found = load_recipe(RECIPE, (*mixed, *tensorrt.overrides(recipe)))
    assert {method_of(found.engine_options(name)) for name in found.components} == {"tensorrt"}
