"""What a node is, and what differs there."""

from dataclasses import replace
from pathlib import Path

from mmdeploy.cluster.nodes import facts_here, wanted_of
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.recipe.loader import load_recipe


def test_this_machine_is_like_itself(tiny_recipe: Path) -> None:
    fingerprints = take_fingerprints(load_recipe(tiny_recipe))
    wanted = wanted_of(fingerprints)
    here = facts_here(*wanted)
    assert here.machine == fingerprints.machine
    assert here.instruction_sets == fingerprints.instruction_sets
    assert {name: here.versions[name] for name in fingerprints.versions} == fingerprints.versions
    own = {name: digest for files in fingerprints.code.values() for name, digest in files.items()}
    assert len(own) > 50
    assert here.code == own
    assert here.place == facts_here(*wanted).place
    assert here.unlike(here) == ""


def test_other_libraries_and_other_code_are_named(tiny_recipe: Path) -> None:
    here = facts_here(*wanted_of(take_fingerprints(load_recipe(tiny_recipe))))
    file = "mmdeploy/worker/run_step.py"
    other = replace(here, versions=here.versions | {"torch": "2.12.0"}, code=here.code | {file: "0" * 64})
    assert here.unlike(other) == f"torch is 2.12.0 there and {here.versions['torch']} here, {file} differs"
    without = replace(here, versions={name: one for name, one in here.versions.items() if name != "onnx"})
    assert here.unlike(without) == f"onnx is not installed there and {here.versions['onnx']} here"
    bare = replace(here, code={})
    assert here.unlike(bare).endswith(f", and {len(here.code) - 4} more")
