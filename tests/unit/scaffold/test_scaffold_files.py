"""What init writes appears whole, all of it or nothing."""

import errno
from pathlib import Path

import pytest

from mmdeploy.core.errors import UsageError
from mmdeploy.scaffold.files import write_files


@pytest.mark.parametrize("force", [False, True])
def test_a_file_that_cannot_be_written_takes_the_others_with_it(tmp_path: Path, force: bool) -> None:
    (tmp_path / "taken").write_text("no folder")
    first, second = tmp_path / "init_model.py", tmp_path / "taken" / "recipe.yaml"
    with pytest.raises(UsageError, match=r"recipe\.yaml cannot be written") as caught:
        write_files({first: "model", second: "recipe"}, force=force)
    assert "--output" in str(caught.value.hint)
    assert [one.name for one in tmp_path.iterdir()] == ["taken"]


def test_one_that_cannot_be_put_in_its_place_takes_back_those_that_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Path.hardlink_to

    def full(self: Path, target: Path) -> None:
        if self.name == "recipe.yaml":
            raise OSError(errno.ENOSPC, "No space left on device")
        link(self, target)

    monkeypatch.setattr(Path, "hardlink_to", full)
    with pytest.raises(UsageError, match="No space left on device") as caught:
        write_files({tmp_path / "data.py": "data", tmp_path / "recipe.yaml": "recipe"}, force=False)
    assert "make room" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        write_files({tmp_path / "data.py": "data", tmp_path / "recipe.yaml": "recipe"}, force=False)
    assert [one.name for one in tmp_path.iterdir()] == ["recipe.yaml"]
    written = write_files({tmp_path / "data.py": "data", tmp_path / "recipe.yaml": "mine"}, force=False)
    assert written == (tmp_path / "data.py",), "one that holds its text is left alone"
