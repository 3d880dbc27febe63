"""What every kind of step says of itself holds."""

import importlib
import inspect
from importlib.util import find_spec
from pathlib import Path

import pytest

from mmdeploy.planning.kinds import KINDS, STARTING_ORDER, StepKind


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_kind_names_what_is_there(kind: StepKind, tmp_path: Path) -> None:
    module, _, function = kind.runs.partition(":")
    run = getattr(importlib.import_module(module), function)
    assert [*inspect.signature(run).parameters] == ["task", "workdir", "progress"]
    assert kind.methods or (kind.code and kind.requires)
    for method in kind.methods.built_in if kind.methods else ("any",):
        done_by = kind.module(method, tmp_path)
        assert find_spec(kind.code_of(done_by)) is not None
        assert all(name.isidentifier() for name in kind.requires_of(done_by))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_fork_server_is_given_names_that_exist(kind: StepKind) -> None:
    for name in kind.preload:
        assert importlib.import_module(name)


def test_kinds_are_started_in_the_order_of_their_chain() -> None:
    order = sorted(("engine", "quantize", "export", "prune", "recover"), key=STARTING_ORDER.__getitem__)
    assert order == ["prune", "recover", "export", "quantize", "engine"]


def test_only_passes_on_a_module_train() -> None:
    assert {kind.name for kind in KINDS.values() if kind.trains} == {"recover", "train"}
    assert all(kind.on_module for kind in KINDS.values() if kind.trains)
