"""Code that a recipe names is imported as it is now, and an error is placed in the user's code."""

import os
import py_compile
from pathlib import Path

import pytest

from mmdeploy.core.errors import StepError
from mmdeploy.model.sources import resolve_callable, user_location


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("/init/", "__init__")
        path = path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_location_is_the_users_frame_not_the_librarys(tmp_path):
    write(tmp_path, model="import json\n\ndef build():\n    return json.loads('{')\n")
    build = resolve_callable("model.py:build", tmp_path, error=StepError)
    with pytest.raises(ValueError, match="Expecting") as raised:
        build()
    assert user_location(raised.value, tmp_path) == "model.py:4 (build)"


def test_a_file_may_have_the_name_of_a_library(tmp_path):
    import json

    write(tmp_path, json="def build(): return 'mine'")
    assert resolve_callable("json.py:build", tmp_path, error=StepError)() == "mine"
    import json as again

    assert again is json and json.loads("1") == 1


def test_a_file_with_the_name_of_a_library_is_loaded_once_until_it_changes(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, json="import sibling\ndef build(): return 'here', sibling.N", sibling="N = 1")
    write(there, json="def build(): return 'there'")
    first = resolve_callable("json.py:build", here, error=StepError)
    assert resolve_callable("json.py:build", here, error=StepError) is first
    assert resolve_callable("json.py:build", there, error=StepError)() == "there"
    write(there, json="def build(): return 'there, edited'")
    assert resolve_callable("json.py:build", there, error=StepError)() == "there, edited"
    write(here, sibling="N = 22")
    assert resolve_callable("json.py:build", here, error=StepError)() == ("here", 22)


def test_bytecode_beside_the_source_is_not_believed(tmp_path):
    """An edit of the same size that keeps the modification time, as a restored cache does."""
    write(tmp_path, model="from layers import width\ndef build(): return SCALE, width\nSCALE = 4", layers="width = 1")
    for name in ("model.py", "layers.py"):
        os.utime(tmp_path / name, (1, 1))
        py_compile.compile(str(tmp_path / name))
    assert resolve_callable("model.py:build", tmp_path, error=StepError)() == (4, 1)
    for name, old, new in (("model.py", "SCALE = 4", "SCALE = 9"), ("layers.py", "width = 1", "width = 2")):
        path = tmp_path / name
        path.write_text(path.read_text().replace(old, new))
        os.utime(path, (1, 1))
    assert resolve_callable("model.py:build", tmp_path, error=StepError)() == (9, 2)


def test_bytecode_of_a_package_on_the_path_is_not_believed_either(tmp_path, monkeypatch):
    package = tmp_path / "site" / "mytower_in_place"
    write(package, init="SCALE = 4", deep="DEEP = 1")
    (package / "init.py").rename(package / "__init__.py")
    write(tmp_path / "recipe", model="import mytower_in_place.deep as d\ndef build(): return d.DEEP")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    os.utime(package / "deep.py", (1, 1))
    py_compile.compile(str(package / "deep.py"))
    (package / "deep.py").write_text("DEEP = 2")
    os.utime(package / "deep.py", (1, 1))
    assert resolve_callable("model.py:build", tmp_path / "recipe", error=StepError)() == 2
    assert not (tmp_path / "recipe" / "__pycache__").exists(), "and none is left"
