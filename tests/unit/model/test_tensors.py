"""Digests by tensor: exact about which component a changed weight belongs to, and safe where that cannot be told."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from mmdeploy.core.digests import FileFacts
from mmdeploy.model.tensors import OTHERS, of_modules, tensor_digests

State = dict[str, Tensor]
WRITERS: dict[str, Callable[[State, Path], None]] = {
    "w.safetensors": save_file,
    "w.pt": torch.save,
    "w.pth": lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path),
}
MODULES = {"encoder": "encoder", "head": "head"}


def state(**changes: Tensor) -> State:
    torch.manual_seed(0)
    found = {
        "encoder.weight": torch.randn(4, 3),
        "encoder.count": torch.tensor(7),
        "head.weight": torch.randn(2, 4).to(torch.bfloat16),
        "head.bias": torch.zeros(2),
        "logit_scale": torch.tensor(1.0),
    }
    return found | {name.replace("__", "."): value for name, value in changes.items()}


def digests(content: State, folder: Path, writer: str) -> dict[str, str]:
    WRITERS[writer](content, folder / writer)
    return tensor_digests(folder / writer, FileFacts())


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ({}, set()),
        ({"head__bias": torch.ones(2)}, {"head.bias"}),
        ({"encoder__weight": torch.zeros(3, 4)}, {"encoder.weight"}),
        ({"head__bias": torch.zeros(2, dtype=torch.float64)}, {"head.bias"}),
        ({"head__bias": torch.zeros(2, 1)}, {"head.bias"}),
        ({"more": torch.zeros(1)}, {"more"}),
    ],
)
def test_a_tensor_s_digest_is_that_of_its_values_type_and_shape(
    tmp_path: Path, writer: str, change: State, touched: set[str]
) -> None:
    before, after = digests(state(), tmp_path, writer), digests(state(**change), tmp_path, writer)
    assert changed(before, after) == touched
    assert set(before) == set(state())


def test_views_of_one_storage_are_told_apart(tmp_path: Path) -> None:
    whole = torch.arange(8.0)
    before = digests({"a.x": whole[:4], "b.x": whole[4:]}, tmp_path, "w.pt")
    assert before["a.x"] != before["b.x"]
    after = digests({"a.x": whole[:4], "b.x": whole[3:7]}, tmp_path, "w.pt")
    assert changed(before, after) == {"b.x"}


def test_types_that_torch_writes_in_another_way(tmp_path: Path) -> None:
    eight = {"a.x": torch.ones(4).to(torch.float8_e4m3fn), "b.x": torch.ones(4).to(torch.float8_e5m2)}
    parameters = {name: torch.nn.Parameter(torch.ones(2)) for name in ("a.x", "b.x")}
    for content in (eight, parameters):
        assert set(digests(content, tmp_path, "w.pt")) == {"a.x", "b.x"}  # type: ignore[arg-type]


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("ran"),))


@pytest.mark.parametrize("content", ["module", "evil", "legacy", "number", "damaged", "header", "text", "empty"])
def test_what_is_no_state_dict_counts_as_a_whole_and_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pt"
    match content:
        case "module":
            torch.save(torch.nn.Linear(2, 2), path)
        case "evil":
            torch.save({"a": torch.ones(1), "b": Evil()}, path)
        case "legacy":
            torch.save(state(), path, _use_new_zipfile_serialization=False)
        case "number":
            torch.save({"a": torch.ones(1), "epoch": 3}, path)
        case "damaged":
            torch.save(state(), path)
            path.write_bytes(path.read_bytes().replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"))
        case "header":
            path = tmp_path / "w.safetensors"
            path.write_bytes((100).to_bytes(8, "little") + b"{" * 100)
        case "text":
            path.write_bytes(pickle.dumps({"a": 1}))
        case "empty":
            path = tmp_path / "w.safetensors"
            path.write_bytes(b"")
    before = tensor_digests(path, FileFacts())
    assert set(before) == {OTHERS}
    assert not (tmp_path / "ran").exists()
    path.write_bytes(path.read_bytes() + b" ")
    assert tensor_digests(path, FileFacts()) != before


def test_a_truncated_file_is_no_set_of_tensors(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(content[:-3])
    assert set(tensor_digests(tmp_path / "w.safetensors", FileFacts())) == {OTHERS}


@pytest.mark.parametrize(
    ("tensor", "touched"),
    [("head.bias", {"head"}), ("encoder.weight", {"encoder"}), ("logit_scale", {OTHERS}), ("headless.x", {OTHERS})],
)
def test_a_tensor_counts_for_the_component_that_it_lies_in(tensor: str, touched: set[str]) -> None:
    tensors = dict.fromkeys(["head.bias", "encoder.weight", "logit_scale", "headless.x"], "old")
    assert changed(of_modules(tensors, MODULES), of_modules({**tensors, tensor: "new"}, MODULES)) == touched


def test_modules_may_lie_in_each_other() -> None:
    tensors = {"tower.a": "1", "tower.head.b": "1", "x": "1"}
    modules = {"all": "", "tower": "tower", "head": "tower.head"}
    before = of_modules(tensors, modules)
    assert changed(before, of_modules({**tensors, "tower.head.b": "2"}, modules)) == {"all", "tower", "head"}
    assert changed(before, of_modules({**tensors, "tower.a": "2"}, modules)) == {"all", "tower"}
    assert changed(before, of_modules({**tensors, "x": "2"}, modules)) == {"all"}


def test_a_tensor_that_two_share_counts_for_both() -> None:
    tensors = {"text.embed.weight": "1", "text.norm": "1", "head.out.bias": "1"}
    modules, shared = {"text": "text", "head": "head"}, [("head.out.weight", "text.embed.weight")]
    before = of_modules(tensors, modules, shared)
    assert changed(before, of_modules({**tensors, "text.embed.weight": "2"}, modules, shared)) == {"text", "head"}
    assert changed(before, of_modules({**tensors, "text.norm": "2"}, modules, shared)) == {"text"}


def test_what_is_shared_is_followed_as_far_as_it_goes() -> None:
    tensors = {"a.x": "1", "b.x": "1", "c.x": "1"}
    modules, shared = {"a": "a", "c": "c"}, [("b", "c.x"), ("a.deep", "b")]
    before = of_modules(tensors, modules, shared)
    assert changed(before, of_modules({**tensors, "c.x": "2"}, modules, shared)) == {"a", "c"}


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(
        st.lists(st.sampled_from(["a", "b", "ab", "c"]), min_size=1, max_size=3).map(".".join), min_size=1, unique=True
    ),
    data=st.data(),
)
def test_every_tensor_counts_for_some_component_or_for_all(names: list[str], data: st.DataObject) -> None:
    modules = {path: path for path in data.draw(st.sets(st.sampled_from(["a", "b", "a.b", "c.a", ""])))}
    before = dict.fromkeys(names, "old")
    one = data.draw(st.sampled_from(names))
    touched = changed(of_modules(before, modules), of_modules({**before, one: "new"}, modules))
    assert touched == ({path for path in modules if f"{one}.".startswith(f"{path}." if path else "")} or {OTHERS})
