"""The commit that a report names."""

import subprocess

import pytest

from mmdeploy.building.revision import revision_of


def git(folder, *arguments):
    who = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "--quiet")
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "model.py").write_text("a = 1\n")
    (tmp_path / "other.txt").write_text("a\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path


def test_a_clean_folder_is_its_commit(repository):
    (repository / "other.txt").write_text("changed, but beside the recipe\n")
    (repository / "recipe" / "notes.txt").write_text("not tracked\n")
    assert revision_of(repository / "recipe") == git(repository, "rev-parse", "HEAD")


def test_what_is_not_committed_is_told(repository):
    (repository / "recipe" / "model.py").write_text("a = 2\n")
    assert revision_of(repository / "recipe") == f"{git(repository, 'rev-parse', 'HEAD')} with 1 file changed"


def test_outside_of_a_repository_or_without_git_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert revision_of(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert revision_of(tmp_path) is None


def test_a_repository_without_commits_has_no_revision(tmp_path):
    git(tmp_path, "init", "--quiet")
    assert revision_of(tmp_path) is None
