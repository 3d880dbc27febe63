"""Room for temporary files: what is said where there is none."""

import tempfile
from pathlib import Path

from mmdeploy.core.room import free_bytes, out_of_space, require_room, tight


def test_free_space_is_that_of_the_folder_to_be(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "there") > 0


def test_too_little_room_is_told_with_the_folder() -> None:
    assert tight(1) == ""
    told = tight(2**70)
    assert told.startswith(tempfile.gettempdir())
    assert "MiB free, temporary files need 1.13e+15" in told
    require_room()


def test_what_is_fuller_is_named(tmp_path: Path) -> None:
    """/dev has less room than the disk, or the disk is that of the temporary files."""
    assert f"no space left under {tempfile.gettempdir()}" in out_of_space(tempfile.gettempdir()).message
    assert "--workdir" in (out_of_space(tempfile.gettempdir()).hint or "")
