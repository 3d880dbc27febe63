"""A release as an image, with compose, on Kubernetes and by KServe: the folder, its bytes, what it refuses."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from releases import PEAK_BYTES, RELEASE_ID, release

from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.errors import StoreError
from mmdeploy.packaging.folder import place
from mmdeploy.packaging.image import start
from mmdeploy.packaging.server_options import ServerSettings, server_options
from mmdeploy.packaging.subject import read_subject
from mmdeploy.triton.signing import sign

GOLDEN = Path(__file__).parents[2] / "golden" / "packaging"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no sentence be wrapped."""
    monkeypatch.setenv("COLUMNS", "400")


def said(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 0) -> str:
    assert run(commands, [str(one) for one in argv]) == code
    out, err = capsys.readouterr()
    return out + err


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_what_is_written_is_what_was_read_and_accepted(tmp_path: Path, backend: str, capsys) -> None:
    """Rewrite with UPDATE_GOLDEN=1 after a change that is meant, and read the difference."""
    live = release(tmp_path / "built", backend)
    said(capsys, "package", live, "--output", tmp_path / "deploy", "--container", "26.08-py3", "--gateway")
    digest = read_subject(live).manifest_sha256.encode()
    programs = ("image/start.py", "image/probe.py", "packaged.json", "image/release/", "monitoring/", "gateway/req")
    written = {
        name.replace("/", "-"): content.replace(digest, b"<manifest>")
        for name, content in contents(tmp_path / "deploy").items()
        if not name.startswith(programs)
    }
    folder = GOLDEN / backend
    if os.environ.get("UPDATE_GOLDEN"):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        for name, content in written.items():
            (folder / name).write_bytes(content)
    assert written == contents(folder)


def test_the_release_lies_in_it_as_it_was_published(tmp_path: Path, capsys) -> None:
    live = release(tmp_path / "built")
    said(capsys, "package", live, "--output", tmp_path / "deploy")
    copied = tmp_path / "deploy/image/release"
    assert contents(copied) == contents(live)
    assert start.differences(copied, read_subject(live).manifest_sha256) == []
    assert {path.relative_to(copied) for path in copied.rglob("*")} == {
        path.relative_to(live) for path in live.rglob("*")
    }


def test_notes_fit_the_terminal_but_for_commands(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = said(capsys, "package", release(tmp_path / "built"), "--output", tmp_path / "deploy")
    lines = told.partition("build: ")[0].splitlines()
    assert "pin it with --digest" in " ".join(" ".join(lines).split())
    assert [line for line in lines if len(line) > 80 and "kubectl " not in line and str(tmp_path) not in line] == []


def test_twice_is_once_and_elsewhere_the_same_bytes(tmp_path: Path, capsys) -> None:
    live = release(tmp_path / "built")
    said(capsys, "package", live, "--output", tmp_path / "one")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*")}
    assert "is there already" in said(capsys, "package", live, "--output", tmp_path / "one")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*")}
    said(capsys, "package", tmp_path / "built/models", "--output", tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["built", "one", "two"]


def test_whoever_runs_it_can_read_it_whatever_the_umask_is_here(tmp_path: Path, capsys) -> None:
    before = os.umask(0o077)
    try:
        live = release(tmp_path / "built")
        said(capsys, "package", live, "--output", tmp_path / "deploy")
    finally:
        os.umask(before)
    modes = {path.is_dir(): path.stat().st_mode & 0o777 for path in (tmp_path / "deploy").rglob("*")}
    assert modes == {True: 0o755, False: 0o644}
    assert all(path.stat().st_mode & 0o004 for path in (tmp_path / "deploy").rglob("*"))


def test_other_choices_take_the_place_of_what_was_written(tmp_path: Path, capsys) -> None:
    live, deploy = release(tmp_path / "built"), tmp_path / "deploy"
    said(capsys, "package", live, "--output", deploy)
    said(capsys, "package", live, "--output", deploy, "--image", "registry.example:5000/team/towers:7")
    kustomization = yaml.safe_load((deploy / "kubernetes/base/kustomization.yaml").read_text())
    assert kustomization["images"] == [
        {"name": "release", "newName": "registry.example:5000/team/towers", "newTag": "7"}
    ]
    assert yaml.safe_load((deploy / "compose.yaml").read_text())["services"]["triton"]["image"].endswith("towers:7")


def _plan(path: Path, **other: object) -> Path:
    fields = {
        "model": "two_towers", "replicas": 7, "cores_per_replica": 4, "instances": {"two_towers.encoder": 1},
        "wanted": {"rate_per_s": 500.0, "p99_ms": 80.0},
    }  # fmt: skip
    path.write_text(json.dumps(fields | other))
    return path


def test_a_plan_of_capacity_sets_the_replicas_and_an_option_goes_before_it(tmp_path: Path, capsys) -> None:
    live, deploy, plan = release(tmp_path / "built"), tmp_path / "deploy", _plan(tmp_path / "plan.json")

    def scaled(*more: str) -> tuple[int, int]:
        said(capsys, "package", live, "--output", deploy, "--capacity", plan, *more)
        spec = yaml.safe_load((deploy / "kubernetes/base/horizontalpodautoscaler.yaml").read_text())["spec"]
        return spec["minReplicas"], spec["maxReplicas"]

    assert scaled() == (7, 14)
    assert scaled("--max-replicas", "8") == (7, 8)
    assert scaled("--min-replicas", "3") == (3, 10)
    assert "less than the 7 of the plan" in said(
        capsys, "package", live, "--output", deploy, "--capacity", plan, "--min-replicas", "3"
    )


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"model": "pets"}, "a plan for pets, and the release is one of two_towers"),
        ({"instances": {"two_towers.encoder": 3}}, "1 of two_towers.encoder and not 3"),
        ({"replicas": 0}, "it has no replicas"),
        ({"wanted": None}, "is no plan of mmdeploy capacity"),
    ],
)
def test_a_plan_that_is_not_the_release_s_is_refused(tmp_path: Path, capsys, other, told: str) -> None:
    live, plan = release(tmp_path / "built"), _plan(tmp_path / "plan.json", **other)
    assert told in said(capsys, "package", live, "--output", tmp_path / "deploy", "--capacity", plan, code=2)
    assert not (tmp_path / "deploy").exists()


def test_a_gateway_s_image_has_what_describes_the_release_and_no_model(tmp_path: Path, capsys) -> None:
    live = release(tmp_path / "built")
    said(capsys, "package", live, "--output", tmp_path / "deploy", "--gateway")
    copied = contents(tmp_path / "deploy/gateway/release")
    whole = contents(live)
    assert {"two_towers/config.pbtxt", "two_towers.encoder/config.pbtxt"} <= copied.keys()
    assert all(whole[name] == content for name, content in copied.items())
    assert not [name for name in copied if name.endswith((".onnx", ".json", "manifest.json"))]


def _somebodys(deploy: Path) -> Path:
    (deploy / "mine.txt").write_text("mine")
    return deploy / "mine.txt"


def _changed(deploy: Path) -> Path:
    file = deploy / "kubernetes/base/deployment.yaml"
    file.write_text(file.read_text() + "# mine\n")
    return file


def _another(deploy: Path) -> Path:
    (deploy / "packaged.json").unlink()
    return deploy


@pytest.mark.parametrize("meddle", [_somebodys, _changed, _another])
def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, meddle, capsys) -> None:
    live, deploy = release(tmp_path / "built"), tmp_path / "deploy"
    said(capsys, "package", live, "--output", deploy)
    file = meddle(deploy)
    before = contents(deploy)
    told = said(capsys, "package", live, "--output", deploy, "--max-replicas", 3, code=2)
    assert str(file) in told and "left alone" in told
    assert contents(deploy) == before and sorted(path.name for path in tmp_path.iterdir()) == ["built", "deploy"]


def test_a_file_or_a_link_in_its_place_is_left_alone(tmp_path: Path, capsys) -> None:
    live = release(tmp_path / "built")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    said(capsys, "package", live, "--output", tmp_path / "link", code=2)
    assert not any((tmp_path / "empty").iterdir())
    said(capsys, "package", live, "--output", tmp_path / "empty")  # an empty folder is as good as none


def test_what_was_lost_of_it_is_written_again(tmp_path: Path, capsys) -> None:
    live, deploy = release(tmp_path / "built"), tmp_path / "deploy"
    said(capsys, "package", live, "--output", deploy)
    before = contents(deploy)
    (deploy / "compose.yaml").unlink()
    said(capsys, "package", live, "--output", deploy)
    assert contents(deploy) == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--container", "26.13-py3"], "accepted: 26.03-py3"),
        (["--digest", "sha256:12"], "--digest 'sha256:12' is no digest"),
        (["--image", "No Name"], "--image 'No Name' is no name of an image"),
        (["--image", "towers"], "no name of an image with a tag"),
        (["--min-replicas", "0"], "--min-replicas 0"),
        (["--min-replicas", "5", "--max-replicas", "4"], "--max-replicas 4"),
        (["--container", "26.03-py3"], "built by TensorRT 11.2.1.2, 26.03-py3 has 10.16.0.72"),
    ],
)
def test_a_wrong_choice_is_told_and_nothing_is_written(tmp_path: Path, options, told, capsys) -> None:
    live = release(tmp_path / "built", "tensorrt")
    assert told in said(capsys, "package", live, "--output", tmp_path / "deploy", *options, code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["built"]


def test_commands_that_are_told_work_for_a_folder_with_a_space(tmp_path: Path, capsys) -> None:
    told = said(capsys, "package", release(tmp_path / "built"), "--output", tmp_path / "to deploy")
    assert f"'{tmp_path}/to deploy/image'" in told
    assert f"--file '{tmp_path}/to deploy/compose.yaml' up" in told
    assert f"--kustomize '{tmp_path}/to deploy/kubernetes/overlays/cpu'" in told


def test_an_engine_that_no_image_holds_is_refused_with_its_file(tmp_path: Path, capsys) -> None:
    live = release(tmp_path / "built", "tensorrt_rtx")
    told = said(capsys, "package", live, "--output", tmp_path / "deploy", code=2)
    assert "two_towers.encoder/config.pbtxt:2" in told and "'tensorrt_rtx' is not in" in told
    assert not (tmp_path / "deploy").exists()


def test_a_release_that_was_changed_or_not_signed_is_refused(tmp_path: Path, capsys) -> None:
    live = release(tmp_path / "built")
    key, public = tmp_path / "key.pem", tmp_path / "key.pub"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True)
    subprocess.run(["openssl", "ec", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
    arguments = ("package", live, "--output", tmp_path / "deploy")
    assert "is refused" in said(capsys, *arguments, "--public-key", public, code=3)
    sign(live, key)
    assert "not signed" not in said(capsys, *arguments, "--public-key", public)
    assert (tmp_path / "deploy/image/release/model.sig").is_file()
    (live.resolve() / "two_towers.encoder/1/model.onnx").write_bytes(b"")
    assert "is not what was published" in said(capsys, "package", live, "--output", tmp_path / "other", code=3)
    assert not (tmp_path / "other").exists()


def test_what_fails_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    assert place(folder, {"a/b": b"one"}, {}, release_of="first")

    def fails(target: Path) -> None:
        target.mkdir()
        (target / "half").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=r"what was there is still there.*No space left"):
        place(folder, {"a/b": b"two"}, {"copied": fails}, release_of="second")
    assert (folder / "a/b").read_bytes() == b"one" and not (folder / "copied").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["deploy"]


def test_no_release_and_several_are_told(tmp_path: Path, capsys) -> None:
    live = release(tmp_path / "built")
    (live / "manifest.json").unlink()
    told = said(capsys, "package", live.resolve().parent, "--output", tmp_path / "deploy", code=2)
    assert "holds no Triton model" in told or "is no release" in told
    for name in ("other", "third"):
        (tmp_path / "several" / name).parent.mkdir(exist_ok=True)
        release(tmp_path / name)
        (tmp_path / "several" / name).symlink_to((tmp_path / name / "models/two_towers").resolve())
    several = said(capsys, "package", tmp_path / "several", "--output", tmp_path / "deploy", code=2)
    assert "holds 2 ensembles" in several and "name one of them" in several
    assert "not there" in said(capsys, "package", tmp_path / "nowhere", "--output", tmp_path / "deploy", code=2)


def test_sizes_come_from_what_the_build_measured(tmp_path: Path) -> None:
    subject = read_subject(release(tmp_path / "built"))
    assert (subject.peak_bytes, subject.latency_ms, subject.threads) == (PEAK_BYTES, 6.25, 2)
    assert subject.memory_request_mib == 512 and subject.memory_limit_mib == 832  # 400 · 1.25 and · 1.6, up to 64
    cached = replace(subject, cache_bytes=64 * 2**20)
    assert cached.memory_request_mib == 576
    assert replace(subject, peak_bytes=None).memory_request_mib >= 1024


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("two_towers", "two-towers"),
        ("Digits.V2", "digits-v2"),
        ("2_towers", "m-2-towers"),
        ("__", "m"),
        ("a" * 70, "a" * 40),
    ],
)
def test_names_become_names_of_kubernetes(tmp_path: Path, name: str, slug: str) -> None:
    subject = replace(read_subject(release(tmp_path / "built")), name=name)
    assert subject.slug == slug and re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", slug)


def test_the_server_is_started_as_the_guide_on_secure_deployment_says(tmp_path: Path) -> None:
    subject = read_subject(release(tmp_path / "built", cached=True))
    options = server_options(subject, "2.72.0")
    assert {
        "--model-control-mode=none", "--exit-on-error=true", "--strict-readiness=true",
        "--disable-auto-complete-config", "--allow-client-shm=false", "--allow-sagemaker=false",
        "--allow-vertex-ai=false", "--trace-config=level=OFF", "--allow-gpu-metrics=false",
        subject.cache_option,
    } <= {*options}  # fmt: skip
    for protocol in ("http-restricted-api", "grpc-restricted-protocol"):
        (value,) = [one.partition("=")[2] for one in options if one.startswith(f"--{protocol}=")]
        assert {"model-repository", "shared-memory", "trace", "logging"} <= {*value.partition(":")[0].split(",")}
        assert value.endswith("=@SECRET@")
    explicit = server_options(subject, "2.72.0", ServerSettings(model_control="explicit"))
    assert {"--model-control-mode=explicit", "--load-model=two_towers", "--load-model=two_towers.encoder"} <= {
        *explicit
    }
    assert "--allow-client-shm=false" not in server_options(subject, "2.67.0")


def test_an_image_that_cannot_switch_off_shared_memory_is_told(tmp_path: Path, capsys) -> None:
    live = release(tmp_path / "built")
    told = said(capsys, "package", live, "--output", tmp_path / "old", "--container", "26.03-py3")
    assert "cannot switch off the shared memory of clients" in told
    assert "--allow-client-shm" not in (tmp_path / "old/image/tritonserver.args").read_text()
    assert "shared memory" not in said(capsys, "package", live, "--output", tmp_path / "new")


def test_no_secret_is_in_it(tmp_path: Path, capsys) -> None:
    live, deploy = release(tmp_path / "built"), tmp_path / "deploy"
    told = said(capsys, "package", live, "--output", deploy, "--model-control", "explicit")
    assert "kubectl create secret generic two-towers-control-key --from-file=key=control.key" in told
    objects = [yaml.safe_load(path.read_bytes()) for path in deploy.rglob("*.yaml")]
    assert "Secret" not in [one.get("kind") for one in objects]
    assert not (deploy / "control.key").exists()
    assert (deploy / "image/tritonserver.args").read_text().count("@SECRET@") == 2


def test_packages_of_steps_are_installed_in_the_image(tmp_path: Path, capsys) -> None:
    live, deploy = release(tmp_path / "built", **{"requirements.txt": "# steps\npillow==12.0.0\n"}), tmp_path / "deploy"
    assert "pillow==12.0.0" in said(capsys, "package", live, "--output", deploy)
    assert (deploy / "image/requirements.txt").read_text() == "pillow==12.0.0\n"
    assert "pip install" in (deploy / "image/Containerfile").read_text()


def test_what_is_known_is_told_as_json(tmp_path: Path, capsys) -> None:
    live = release(tmp_path / "built")
    digest = f"sha256:{'ab' * 32}"
    told = json.loads(said(capsys, "package", live, "--output", tmp_path / "deploy", "--digest", digest, "--json"))
    assert told["image"] == f"two-towers:{RELEASE_ID}" and told["changed"] is True and told["doubts"] == []
    assert not any("tag" in note for note in told["notes"])
    first = (tmp_path / "deploy/image/Containerfile").read_text().splitlines()
    assert f"FROM nvcr.io/nvidia/tritonserver:26.08-py3@{digest}" in first


@pytest.mark.parametrize("name", ["start.py", "probe.py"])
def test_the_programs_of_the_image_need_nothing_but_python(name: str) -> None:
    program = Path(start.__file__).with_name(name)
    ended = subprocess.run([sys.executable, "-I", "-S", program, "--help"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and "--release" in ended.stdout
