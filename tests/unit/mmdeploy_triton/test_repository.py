"""Staging and publishing: deterministic, atomic, reversible; and what to serve."""

import errno
import json
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from served import three_components

from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.digests import FileFacts
from mmdeploy.core.errors import StoreError, UsageError
from mmdeploy.triton import repository, staging
from mmdeploy.triton.lint import Severity, lint
from mmdeploy.triton.repository import activate, publish, releases, resolve, stage, verify
from mmdeploy.triton.staging import remove_compiled


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def ensemble(tmp_path):
    return three_components(tmp_path / "artifacts")


@pytest.fixture
def staged(tmp_path, ensemble):
    return stage(tmp_path / "staged", ensemble)


def test_a_staged_repository_is_what_triton_expects(staged, ensemble):
    assert set(tree(staged.path)) == {
        "manifest.json",
        "audio_encoder", "audio_encoder/config.pbtxt", "audio_encoder/1", "audio_encoder/1/model.onnx",
        "image_encoder", "image_encoder/config.pbtxt", "image_encoder/1", "image_encoder/1/model.onnx",
        "fusion", "fusion/config.pbtxt", "fusion/3", "fusion/3/model.plan", "fusion/logits.labels.txt",
        "spoken_digits", "spoken_digits/config.pbtxt", "spoken_digits/1", "spoken_digits/1/README.txt",
    }  # fmt: skip
    assert staged.models == ("image_encoder", "audio_encoder", "fusion", "spoken_digits")
    assert (staged.path / "fusion/3/model.plan").read_bytes() == ensemble.components[2].artifact.path.read_bytes()
    assert verify(staged.path) == ()


def test_staging_twice_gives_the_same_bytes(staged, ensemble, tmp_path):
    stage(tmp_path / "again", ensemble)
    assert tree(tmp_path / "again") == tree(staged.path)


def test_external_data_is_copied_beside_the_model_under_its_own_name_and_never_linked(tmp_path, ensemble):
    source = ensemble.components[0].artifact.path
    data = source.with_name("model.onnx.data")
    data.write_bytes(os.urandom(1 << 20))
    staged = stage(tmp_path / "with_data", ensemble)
    copied = staged.path / "image_encoder" / "1" / "model.onnx.data"
    assert copied.read_bytes() == data.read_bytes()
    assert copied.stat().st_nlink == 1 and data.stat().st_nlink == 1


def test_what_an_artifact_names_beside_it_is_staged_and_counted_and_nothing_else(tmp_path, ensemble):
    first, *rest = ensemble.components
    source = first.artifact.path
    source.with_name("model.bin").write_bytes(b"weights")
    source.with_name("graph.onnx").write_bytes(b"not served")
    engine = replace(first.artifact, beside=("model.bin",))
    assert engine.size_bytes == source.stat().st_size + 7
    assert Artifact.from_json(engine.to_json(), source.parent) == engine
    staged = stage(tmp_path / "beside", replace(ensemble, components=(replace(first, artifact=engine), *rest)))
    version = staged.path / first.name / "1"
    assert {file.name for file in version.iterdir()} == {"model.onnx", "model.bin"}
    assert not verify(staged.path)


def test_a_copy_is_whole_where_the_file_system_cannot_share_blocks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    staging.copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"x" * 3_000_000


def test_staging_into_a_used_folder_or_under_one_name_twice_is_refused(tmp_path, ensemble):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(StoreError, match="not empty"):
        stage(tmp_path / "used", ensemble)
    twice = type(ensemble)("fusion", ensemble.inputs, ensemble.outputs, ensemble.components)
    with pytest.raises(UsageError, match="one name"):
        stage(tmp_path / "twice", twice)


def test_verify_names_every_kind_of_damage(staged):
    (staged.path / "fusion" / "config.pbtxt").write_text("name: 'x'")
    (staged.path / "audio_encoder" / "1" / "model.onnx").unlink()
    shutil.rmtree(staged.path / "spoken_digits" / "1")
    (staged.path / "stray").touch()
    damage = "\n".join(verify(staged.path))
    for part in (
        "fusion/config.pbtxt was changed",
        "model.onnx is missing",
        "spoken_digits/1/README.txt is missing",
        "stray is",
    ):
        assert part in damage
    (staged.path / "manifest.json").write_text("{")
    assert "cannot be read" in verify(staged.path)[0]


def link_of_the_same_content(path: Path) -> None:
    (path / "fusion/3/model.plan").rename(path.parent / "elsewhere")
    (path / "fusion/3/model.plan").symlink_to(path.parent / "elsewhere")


def another_version_by_link(path: Path) -> None:
    (path / "fusion/4").symlink_to(path / "fusion/3", target_is_directory=True)


def compiled_of_nothing(path: Path) -> None:
    (path / "fusion/3/__pycache__").mkdir()
    (path / "fusion/3/__pycache__/model.cpython-311.pyc").touch()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (link_of_the_same_content, "fusion/3/model.plan is a symbolic link"),
        (another_version_by_link, "fusion/4 is a symbolic link"),
        (lambda path: (path / "fusion/4").mkdir(), "fusion/4/ is not in manifest.json"),
        (lambda path: (path / "another/1").mkdir(parents=True), "another/ is not in manifest.json"),
        (lambda path: (path / "fusion/3/model.py").touch(), "fusion/3/model.py is not in manifest.json"),
        (
            compiled_of_nothing,
            "fusion/3/__pycache__/ is not in manifest.json: what Python compiled runs in place of its source; "
            "remove it",
        ),
        (lambda path: os.mkfifo(path / "pipe"), "pipe is not in manifest.json"),
    ],
)
def test_what_triton_would_load_besides_is_no_release(staged, change, said):
    change(staged.path)
    assert verify(staged.path) == (said,)


def test_a_release_needs_no_empty_folder(staged):
    """git, object stores and zip files drop them."""
    assert not [path for path in staged.path.rglob("*") if path.is_dir() and not any(path.iterdir())]


def test_a_manifest_with_empty_folders_is_still_understood(staged):
    manifest = json.loads((staged.path / "manifest.json").read_text())
    manifest["empty_folders"] = ["older/1"]
    (staged.path / "manifest.json").write_text(json.dumps(manifest))
    assert verify(staged.path) == ("older/1/ is missing",)
    (staged.path / "older" / "1").mkdir(parents=True)
    assert verify(staged.path) == ()


def test_what_python_compiled_is_a_change_until_the_server_that_had_it_made_removes_it(tmp_path, ensemble):
    """Of equal time and size it runs in place of its source, whatever is in it."""
    first, *rest = ensemble.components
    source = first.artifact.path.with_name("helper.py")
    source.write_text("")
    engine = replace(first.artifact, beside=("helper.py",))
    staged = stage(tmp_path / "compiled", replace(ensemble, components=(replace(first, artifact=engine), *rest)))
    cache = staged.path / first.name / "1" / "__pycache__"
    cache.mkdir()
    (cache / "helper.cpython-311.pyc").touch()
    with pytest.raises(StoreError, match="is not what was published"):
        repository.require_intact([staged.path])
    (said,) = verify(staged.path)
    assert said.startswith(f"{first.name}/1/__pycache__/ is not in manifest.json: what Python compiled")
    (cache / "other.cpython-311.pyc").touch()
    remove_compiled(staged.path)
    assert [entry.name for entry in cache.iterdir()] == ["other.cpython-311.pyc"], "nothing that it did not make"
    (cache / "other.cpython-311.pyc").unlink()
    (cache / "helper.cpython-311.pyc").touch()
    repository.require_intact([staged.path], sweep=True)
    assert verify(staged.path) == ()


def test_links_and_folders_of_others_keep_what_is_compiled(tmp_path, staged):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "model.cpython-311.pyc").touch()
    (staged.path / "fusion/3/__pycache__").symlink_to(elsewhere)
    foreign = tmp_path / "foreign" / "m" / "1" / "__pycache__"
    foreign.mkdir(parents=True)
    (foreign / "model.cpython-311.pyc").touch()
    for path in (staged.path, tmp_path / "foreign"):
        remove_compiled(path)
    assert (elsewhere / "model.cpython-311.pyc").exists()
    assert (foreign / "model.cpython-311.pyc").exists()


def test_a_release_that_was_changed_is_not_served_and_lint_says_so(staged, tmp_path, capsys):
    root = tmp_path / "root"
    live = publish(staged.path, root, "digits", release_id="r1", extra_files={})
    assert [finding for finding in lint(root) if finding.rule == "manifest"] == []
    weights = live / "audio_encoder" / "1" / "model.onnx"
    weights.write_bytes(b"others")
    assert run(commands, ["serve", str(root)]) == 3
    told = capsys.readouterr().err
    assert "is not what was published:\n  audio_encoder/1/model.onnx was changed" in told
    assert "hint: build it again, or make another release live" in told
    found = [finding for finding in lint(root) if finding.rule == "manifest"]
    assert [finding.message for finding in found] == list(verify(live))
    assert all(finding.severity is Severity.ERROR for finding in found)
    (live / "manifest.json").unlink()
    with pytest.raises(StoreError, match="is not what was published"):
        repository.require_intact(resolve(root))
    shutil.copytree(live, tmp_path / "copied")
    repository.require_intact(resolve(tmp_path / "copied"))


@pytest.mark.parametrize("there", [True, False])
def test_a_link_that_is_not_ours_is_left_alone(staged, tmp_path, there):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    if there:
        elsewhere.mkdir()
    (root / "digits").symlink_to(elsewhere)
    with pytest.raises(StoreError, match="not a symlink that mmdeploy made"):
        publish(staged.path, root, "digits", release_id="r1", extra_files={})
    assert (root / "digits").readlink() == elsewhere


def test_publish_makes_a_relative_link_to_a_verified_release(staged, tmp_path):
    report = tmp_path / "report.json"
    report.write_text("{}")
    root = tmp_path / "model_repository"
    live = publish(staged.path, root, "digits", release_id="r1", extra_files={"reports/report.json": report})
    assert live == root / "digits"
    assert live.readlink() == Path(".releases/digits/r1")
    assert (live / "reports" / "report.json").read_text() == "{}"
    assert (live / "spoken_digits" / "1").is_dir()
    assert verify(live) == ()
    moved = root.rename(tmp_path / "moved")  # a relative link survives
    assert verify(moved / "digits") == ()


def test_any_earlier_release_can_be_made_live_again(staged, ensemble, tmp_path):
    root = tmp_path / "root"
    publish(staged.path, root, "digits", release_id="r1", extra_files={})
    ensemble.components[0].artifact.path.write_bytes(b"new weights")
    newer = stage(tmp_path / "newer", ensemble)
    publish(newer.path, root, "digits", release_id="r2", extra_files={})
    assert [(release.release_id, release.live) for release in releases(root, "digits")] == [
        ("r1", False),
        ("r2", True),
    ]
    activate(root, "digits", "r1")
    assert (root / "digits" / "image_encoder/1/model.onnx").read_bytes() != b"new weights"
    assert [release.live for release in releases(root, "digits")] == [True, False]
    with pytest.raises(UsageError, match=r"no release 'r3'.*accepted: r1, r2"):
        activate(root, "digits", "r3")
    (root / ".releases/digits/r2/fusion/config.pbtxt").write_text("")
    with pytest.raises(StoreError, match="r2 of digits is damaged"):
        activate(root, "digits", "r2")
    assert (root / "digits").readlink() == Path(".releases/digits/r1")


def test_publishing_the_same_again_is_fine_and_other_content_under_the_same_id_is_not(staged, ensemble, tmp_path):
    root = tmp_path / "root"
    publish(staged.path, root, "digits", release_id="r1", extra_files={})
    publish(staged.path, root, "digits", release_id="r1", extra_files={})
    before = tree(root)
    ensemble.components[0].artifact.path.write_bytes(b"other")
    other = stage(tmp_path / "other", ensemble)
    with pytest.raises(StoreError, match="exists already with other content"):
        publish(other.path, root, "digits", release_id="r1", extra_files={})
    assert tree(root) == before


def test_a_damaged_staged_repository_is_not_published(staged, tmp_path):
    (staged.path / "fusion" / "config.pbtxt").write_text("")
    with pytest.raises(StoreError, match=r"fusion/config\.pbtxt was changed"):
        publish(staged.path, tmp_path / "root", "digits", release_id="r1", extra_files={})
    assert [entry for entry in tree(tmp_path / "root") if not entry.endswith((".releases", "digits", ".lock"))] == []
    assert not (tmp_path / "root" / "digits").exists()


def test_digests_that_are_known_are_not_taken_again_and_what_is_no_true_copy_is_not_published(tmp_path, ensemble):
    plan, facts = ensemble.components[2].artifact.path, FileFacts()
    assert stage(tmp_path / "read", ensemble, facts).files == stage(tmp_path / "not", ensemble).files
    copied, read = staging.copy_file, staging.file_sha256

    def wrong(source: Path, target: Path) -> None:
        copied(source, target)
        target.write_bytes(b"another" if source == plan else target.read_bytes())

    def not_a_copy(path: Path) -> str:
        assert path.name != plan.name
        return read(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "copy_file", wrong)
        patch.setattr(staging, "file_sha256", not_a_copy)
        made = stage(tmp_path / "wrong", ensemble, facts)
    assert made.files["fusion/3/model.plan"] == file_sha256(plan)
    with pytest.raises(StoreError, match=r"is not what was staged: fusion/3/model\.plan was changed"):
        publish(made.path, tmp_path / "root", "digits", release_id="r1", extra_files={})
    assert not releases(tmp_path / "root", "digits")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("moment", ["copy_file", "write_manifest", "_sync", "_point"])
def test_a_failed_or_interrupted_publish_changes_nothing(staged, ensemble, tmp_path, monkeypatch, moment, error):
    root = tmp_path / "root"
    publish(staged.path, root, "digits", release_id="r1", extra_files={})
    before = tree(root)
    ensemble.components[0].artifact.path.write_bytes(b"newer")
    newer = stage(tmp_path / "newer", ensemble)

    def fail(*_):
        raise error

    monkeypatch.setattr(repository, moment, fail)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else StoreError) as caught:
        publish(newer.path, root, "digits", release_id="r2", extra_files={})
    monkeypatch.undo()
    assert tree(root) == before
    assert (root / "digits").readlink() == Path(".releases/digits/r1")
    if isinstance(caught.value, StoreError):
        assert "still live" in caught.value.message and caught.value.hint == "free some space on that disk"


def test_an_interrupt_after_the_switch_leaves_the_new_release_live_and_whole(staged, tmp_path, monkeypatch):
    root, real = tmp_path / "published", repository._sync
    publish(staged.path, root, "digits", release_id="one", extra_files={})

    def interrupted(path):
        if path == root:  # the last thing that publishing does
            raise KeyboardInterrupt
        real(path)

    monkeypatch.setattr(repository, "_sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish(staged.path, root, "digits", release_id="two", extra_files={})
    live = next(release for release in releases(root, "digits") if release.live)
    assert live.release_id == "two"
    assert verify(root / "digits") == ()


def test_what_a_killed_publish_left_is_swept_by_the_next(staged, tmp_path):
    left = tmp_path / "root" / ".releases" / "digits" / ".staging-r0"
    left.mkdir(parents=True)
    (left / "half").touch()
    publish(staged.path, tmp_path / "root", "digits", release_id="r1", extra_files={})
    assert not left.exists() and [release.release_id for release in releases(tmp_path / "root", "digits")] == ["r1"]


def test_a_folder_that_somebody_made_is_left_alone(staged, tmp_path):
    (tmp_path / "root" / "digits").mkdir(parents=True)
    with pytest.raises(StoreError, match="not a symlink that mmdeploy made"):
        publish(staged.path, tmp_path / "root", "digits", release_id="r1", extra_files={})


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".hidden", "a b"])
def test_names_cannot_lead_out_of_the_root(staged, tmp_path, name):
    with pytest.raises(UsageError, match="cannot be a"):
        publish(staged.path, tmp_path / "root", name, release_id="r1", extra_files={})
    with pytest.raises(UsageError, match="cannot be a"):
        publish(staged.path, tmp_path / "root", "digits", release_id=name, extra_files={})
    with pytest.raises(StoreError, match="leads outside"):
        publish(
            staged.path,
            tmp_path / "root",
            "digits",
            release_id="r1",
            extra_files={"../x": staged.path / "manifest.json"},
        )
    assert not (tmp_path / "root" / "digits").exists()


def _publish(staged: Path, root: Path, release_id: str) -> None:
    publish(staged, root, "digits", release_id=release_id, extra_files={})


def test_concurrent_publishes_all_arrive_and_one_is_live(staged, tmp_path):
    root = tmp_path / "root"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_publish, args=(staged.path, root, f"r{n}")) for n in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 6
    found = releases(root, "digits")
    assert {release.release_id for release in found} == {f"r{n}" for n in range(6)}
    assert sum(release.live for release in found) == 1
    assert all(verify(release.path) == () for release in found)


def test_no_permission_is_a_store_error(staged, tmp_path):
    if os.geteuid() == 0:
        root = Path("/proc/mmdeploy")  # not even root can make a folder there
    else:
        root = tmp_path / "root"
        root.mkdir(mode=0o500)
    with pytest.raises(StoreError, match="cannot publish digits"):
        publish(staged.path, root, "digits", release_id="r1", extra_files={})


def test_resolve_takes_a_repository_or_all_that_are_published(staged, tmp_path):
    assert resolve(staged.path) == [staged.path.resolve()]
    root = tmp_path / "root"
    publish(staged.path, root, "b", release_id="r1", extra_files={})
    publish(staged.path, root, "a", release_id="r7", extra_files={})
    (root / "README.md").touch()
    releases_folder = (root / ".releases").resolve()
    assert resolve(root) == [releases_folder / "a" / "r7", releases_folder / "b" / "r1"]
    assert resolve(root / "b") == [releases_folder / "b" / "r1"]


def test_resolve_takes_models_without_configuration(tmp_path):
    (tmp_path / "repo" / "model" / "1").mkdir(parents=True)
    (tmp_path / "repo" / "model" / "1" / "model.onnx").touch()
    assert resolve(tmp_path / "repo") == [(tmp_path / "repo").resolve()]


def test_resolve_says_what_is_there_instead(staged, tmp_path):
    with pytest.raises(UsageError, match="not there"):
        resolve(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="not a folder"):
        resolve(staged.path / "manifest.json")
    with pytest.raises(UsageError, match="is one model") as caught:
        resolve(staged.path / "fusion")
    assert str(staged.path) in (caught.value.hint or "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no Triton model"):
        resolve(tmp_path / "empty")


def test_a_dangling_link_is_no_repository(staged, tmp_path):
    root = tmp_path / "root"
    publish(staged.path, root, "digits", release_id="r1", extra_files={})
    shutil.rmtree(root / ".releases" / "digits" / "r1")
    with pytest.raises(UsageError, match="holds no Triton model"):
        resolve(root)
