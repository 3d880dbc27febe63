"""The key of a server's control endpoints: from a file, from the environment, or made."""

from pathlib import Path

import pytest

from mmdeploy.core.errors import StoreError, UsageError
from mmdeploy.triton.control_key import ENVIRONMENT, ControlKey, kept_key, known_key
from mmdeploy.triton.install import find_installation, server_environment

SECRET = "kept+for/who-promotes=="


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    path = tmp_path / "control.key"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    return path


def test_a_file_comes_before_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert known_key(None) is None
    monkeypatch.setenv(ENVIRONMENT, "of-the-environment")
    assert known_key(None) == kept_key(None) == ControlKey("of-the-environment")
    assert known_key(file) == kept_key(file) == ControlKey(SECRET)


def test_a_server_without_either_makes_a_key_and_keeps_it_where_it_is_told(file: Path) -> None:
    assert kept_key(None) != kept_key(None)
    file.unlink()
    made = kept_key(file)
    assert known_key(file) == made
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(made.secret) > 40


@pytest.mark.parametrize("text", ["", "short", "with a space in between", "colon:colon:colon:", "x" * 257, "ключ" * 9])
def test_what_is_no_key_is_refused_and_not_shown(file: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError, match="holds no control key") as refused:
        kept_key(file)
    assert str(file) in refused.value.message
    assert not text or text not in refused.value.message + str(refused.value.hint)
    monkeypatch.setenv(ENVIRONMENT, text)
    with pytest.raises(UsageError, match=f"{ENVIRONMENT} holds no control key"):
        known_key(None)


def test_a_file_that_others_can_use_is_refused(file: Path) -> None:
    for mode in (0o640, 0o604, 0o660):
        file.chmod(mode)
        with pytest.raises(UsageError, match="other users can use the control key") as refused:
            known_key(file)
        assert refused.value.hint == f"chmod 600 {file}, and a new key"


def test_a_file_that_cannot_be_read_or_written(file: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        known_key(file.with_name("gone"))
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        kept_key(file.parent)
    with pytest.raises(StoreError, match="cannot be kept in"):
        kept_key(file.parent / "no" / "folder")
    file.write_bytes(b"\xff\xfe" * 20)
    with pytest.raises(UsageError, match="it is no text"):
        known_key(file)


def test_models_do_not_see_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, SECRET)
    assert ENVIRONMENT not in server_environment(find_installation(None))
