"""The verbs around releases: list them, go back, compare them with their manifests, remove old ones."""

import json
import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from report_samples import passed
from served import three_components

from mmdeploy.building.provenance import PROVENANCE
from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.triton.repository import in_use, publish, releases, stage
from mmdeploy.triton.staging import write_manifest

FIRST, SECOND, THIRD = "20260101-000000-aaaaaa", "20260102-000000-bbbbbb", "20260103-000000-cccccc"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three releases of one ensemble, the last one live, below the working directory."""
    monkeypatch.chdir(tmp_path)
    staged = stage(tmp_path / "staged", three_components(tmp_path / "artifacts"))
    for days, release in enumerate((FIRST, SECOND, THIRD)):
        publish(staged.path, tmp_path / "model_repository", "pair", release_id=release, extra_files={})
        moment = time.time() - (20 - 8 * days) * 86400
        os.utime(tmp_path / "model_repository/.releases/pair" / release / "manifest.json", (moment, moment))
    return Path("model_repository")


def said(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    assert run(commands, argv) == code
    out, err = capsys.readouterr()
    return out + err


def live(root: Path) -> str:
    return (root / "pair").resolve().name


def test_releases_are_listed_the_newest_first(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for line in said(capsys, "releases").splitlines() if not line.startswith("    ")]
    assert [line.split()[:2] for line in lines[1:]] == [["pair", THIRD], ["pair", SECOND], ["pair", FIRST]]
    assert [" since " in line for line in lines[1:]] == [True, False, False]
    assert max(map(len, lines)) <= 80
    assert said(capsys, "releases", "--quiet").split() == [THIRD, SECOND, FIRST]
    listed = json.loads(said(capsys, "releases", "pair", "--json"))["releases"]
    assert [(one["release"], one["live"], one["verdict"]) for one in listed] == [
        (THIRD, True, None), (SECOND, False, None), (FIRST, False, None),
    ]  # fmt: skip
    assert "report.json: cannot be read" in listed[0]["unreadable"]
    assert "nothing is published in elsewhere" in said(capsys, "releases", "--output", "elsewhere")
    assert "did you mean 'pair'" in said(capsys, "releases", "pear", code=2)


def test_back_to_the_release_before_and_to_any(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = said(capsys, "rollback")
    assert live(root) == SECOND
    assert f"{SECOND} is live, {THIRD} no more" in told and f"back: mmdeploy rollback pair {THIRD}" in told
    said(capsys, "rollback", "pair")
    assert live(root) == FIRST
    assert "is the oldest release of pair" in said(capsys, "rollback", "pair", code=2)
    assert f"{FIRST} is live already" in said(capsys, "rollback", "pair", FIRST)
    assert "has no release '20260104'" in said(capsys, "rollback", "pair", "20260104", code=2)
    said(capsys, "rollback", "pair", THIRD)
    assert live(root) == THIRD


def test_two_releases_side_by_side(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "report.json: cannot be read" in said(capsys, "diff", code=2)  # these were published without one
    assert "has no release '20260104'" in said(capsys, "diff", "pair", "20260104", code=2)
    assert "is the live release: name another" in said(capsys, "diff", "pair", THIRD, code=2)
    report, staged = tmp_path / "report.json", stage(tmp_path / "again", three_components(tmp_path / "artifacts")).path
    made = []
    for release, file_bytes in (("20260104-000000-dddddd", 1000), ("20260105-000000-eeeeee", 2000)):
        sizes = tuple(one.model_copy(update={"candidate_bytes": file_bytes}) for one in passed().sizes)
        report.write_text(passed().model_copy(update={"sizes": sizes}).to_json())
        publish(staged, root, "pair", release_id=release, extra_files={"report.json": report})
        made.append(release)
    told = said(capsys, "diff")
    assert told.startswith(f"pair: {made[0]} and {made[1]}\n") and "size" in told
    assert said(capsys, "diff", "pair", *made).startswith(f"pair: {made[0]} and {made[1]}\n")
    there, back = (json.loads(said(capsys, "diff", "pair", *ids, "--json")) for ids in (made, made[::-1]))
    assert [(one["before"], one["after"]) for one in there["sizes"]] == [
        (one["after"], one["before"]) for one in back["sizes"]
    ]
    assert there["sizes"]


def test_no_way_back_to_what_was_changed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / ".releases/pair" / SECOND / "fusion/config.pbtxt").write_text("")
    told = said(capsys, "rollback", "pair", code=3)
    assert f"error: release {SECOND} of pair is damaged: fusion/config.pbtxt was changed" in told
    assert live(root) == THIRD


def test_verify_names_what_was_changed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "verify").endswith("1 release, 0 refused\n")
    (root / ".releases/pair" / FIRST / "extra.txt").write_text("")
    assert said(capsys, "verify", "model_repository/pair").endswith("1 release, 0 refused\n")
    told = said(capsys, "verify", "--all", code=1)
    assert f"{FIRST}: is not what was published\n  extra.txt is not in manifest.json\n" in told
    assert "3 releases, 1 refused\nhint: build it again" in told
    found = json.loads(said(capsys, "verify", "--all", "--json", code=1))["releases"]
    assert [one["intact"] for one in found] == [False, True, True]
    assert "is not there" in said(capsys, "verify", "gone", code=2)


def test_a_manifest_written_anew_does_not_hide_a_change(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    staged = stage(tmp_path / "again", three_components(tmp_path / "artifacts"))
    subject = [{"name": name, "digest": {"sha256": digest}} for name, digest in staged.files.items()]
    (tmp_path / PROVENANCE).write_text(json.dumps({"subject": subject}))
    publish(staged.path, root, "pair", release_id="built", extra_files={PROVENANCE: tmp_path / PROVENANCE})
    assert "1 release, 0 refused" in said(capsys, "verify")
    release = root / ".releases/pair/built"
    config = release / "fusion/config.pbtxt"
    config.write_text(config.read_text() + "# changed\n")
    (release / "fusion/2").mkdir()
    (release / "fusion/2/model.py").write_text("")
    write_manifest(release, "pair")
    told = said(capsys, "verify", code=1)
    assert f"fusion/config.pbtxt is not what {PROVENANCE} says was built" in told
    assert f"fusion/2/model.py is not in {PROVENANCE}" in told
    (release / PROVENANCE).write_text("{}")
    write_manifest(release, "pair")
    assert f"{PROVENANCE} cannot be read" in said(capsys, "verify", code=1)


def left(root: Path) -> list[str]:
    return [one.release_id for one in releases(root, "pair")]


def test_old_releases_go_and_never_the_live_one(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "gc") == "nothing to remove\n"
    assert FIRST in said(capsys, "gc", "--releases", "1", "--dry-run") and left(root) == [FIRST, SECOND, THIRD]
    said(capsys, "rollback", "pair", FIRST)
    said(capsys, "gc", "--releases", "1")
    assert left(root) == [FIRST, THIRD] and live(root) == FIRST
    found = json.loads(said(capsys, "gc", "--release-days", "1", "--json"))
    assert [one["release"] for one in found["releases"]] == [THIRD] and found["bytes"] > 0
    assert left(root) == [FIRST]
    assert said(capsys, "verify").endswith("1 release, 0 refused\n")


def hold(folder: Path, ready: Connection) -> None:
    with in_use([folder]):
        ready.send(None)
        time.sleep(600)


def test_what_a_server_holds_stays(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=hold, args=(root / ".releases/pair" / FIRST, theirs))
    server.start()
    try:
        ours.recv()
        told = said(capsys, "gc", "--releases", "0")
        assert left(root) == [FIRST, THIRD]
        assert f"kept: pair {FIRST}: a server that runs has loaded it" in told
    finally:
        server.kill()
        server.join()
    said(capsys, "gc", "--releases", "0")
    assert left(root) == [THIRD]


def test_several_ensembles_are_told_apart(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(Path("staged"), root, "other", release_id=FIRST, extra_files={})
    told = said(capsys, "rollback", code=2)
    assert "2 ensembles are published in model_repository: say which of other, pair" in told
    assert [one["name"] for one in json.loads(said(capsys, "releases", "--json"))["releases"]] == [
        "other",
        *["pair"] * 3,
    ]
