"""Machines that share a store on S3, in the real protocol: what one built another takes, and how it fails."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from mmdeploy import api
from mmdeploy.building.builder import Outcome
from mmdeploy.building.settings import Settings
from mmdeploy.core.errors import EnvironmentUnfitError, StoreError
from mmdeploy.core.shared_store import SharedStore
from mmdeploy.core.store import Store
from mmdeploy.recipe.loader import load_recipe
from tests.integration.s3_server import SECRET, s3_server

URL = "s3://team/digits"
ENGINE = "fusion/engine"

Run = Callable[..., "CompletedProcess[str]"]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[dict[str, str], Any]]:
    with s3_server("team") as (environment, running):
        yield environment, running


@pytest.fixture
def s3(server: tuple[dict[str, str], Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    from s3fs import S3FileSystem

    for name, value in server[0].items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    yield server[0]
    S3FileSystem.clear_instance_cache()


def built(recipe: Path, workdir: Path, url: str = URL, *, read_only: bool = False) -> Outcome:
    shared = SharedStore(url, read_only=read_only)
    return api.build(load_recipe(recipe), Settings(workdir=workdir, shared=shared), only=ENGINE)


def bytes_of(outcome: Outcome) -> dict[str, dict[str, bytes]]:
    return {
        step: {path.name: path.read_bytes() for path in artifact.path.parent.iterdir()}
        for step, artifact in outcome.artifacts.items()
    }


def test_a_fresh_clone_on_another_machine_reuses_all_of_it(
    tiny_recipe: Path, shared_workdir: Path, tmp_path: Path, s3: dict[str, str], mmdeploy_command: Run
) -> None:
    first = built(tiny_recipe, shared_workdir)
    assert first.report.notes == ()
    other = tmp_path / "other"
    planned = mmdeploy_command(
        "plan", tiny_recipe, "--only", ENGINE, "--workdir", other, "--store", URL, "-vv", environment=s3
    )
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.count(f"reuse  in {URL}") == 3
    assert "0 to run, 3 to reuse" in planned.stdout
    assert not list((other / "store" / "entries").iterdir()), "a plan takes what it must know, and no results"

    second = built(tiny_recipe, other, read_only=True)
    assert {step.status for step in second.report.steps} == {"reused"}
    assert {step.why for step in second.report.steps} == {f"in {URL}"}
    assert bytes_of(second) == bytes_of(first)
    assert SECRET not in planned.stdout + planned.stderr
    kept = [path for path in other.rglob("*") if path.is_file()]
    assert [path for path in kept if SECRET.encode() in path.read_bytes()] == []


def test_what_is_here_is_reused_without_a_network(
    tiny_recipe: Path, shared_workdir: Path, s3: dict[str, str], mmdeploy_command: Run
) -> None:
    built(tiny_recipe, shared_workdir)
    nowhere = s3 | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "MMDEPLOY_STORE": URL}
    again = mmdeploy_command("build", tiny_recipe, "--only", ENGINE, "--workdir", shared_workdir, environment=nowhere)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("reused") >= 3


def test_a_place_that_goes_away_in_the_middle_costs_no_build(
    tiny_recipe: Path, shared_workdir: Path, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write after that of the mark fails, as if the network had gone when the first step was done."""
    from mmdeploy.core.shared_place import SharedPlace

    url = "s3://team/goes-away"
    with monkeypatch.context() as patch:

        def gone(self: SharedPlace, file: Path, name: str) -> None:
            raise StoreError("cannot write the store: EndpointConnectionError")

        patch.setattr(SharedPlace, "upload", gone)
        outcome = built(tiny_recipe, shared_workdir, url)
    assert outcome.report.exit_code == 0
    (note,) = outcome.report.notes
    assert "Warning: 3 step results not sent to s3://team/goes-away" in note
    assert "EndpointConnectionError" in note
    assert built(tiny_recipe, shared_workdir, url).report.notes == ()
    assert len(SharedStore(url).place.files("entries")) == 3


@pytest.mark.parametrize(
    ("url", "changes", "error", "message"),
    [
        ("s3://absent/x", {}, StoreError, "there is no place for a store at s3://absent/x"),
        (URL, {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, EnvironmentUnfitError, "no credentials were"),
        (URL, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, StoreError, "cannot read the store at s3://team/digits"),
    ],
)
def test_what_is_known_beforehand_stops_a_build_before_any_step(
    tiny_recipe: Path,
    tmp_path: Path,
    s3: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    url: str,
    changes: dict[str, str | None],
    error: type[Exception],
    message: str,
) -> None:
    for name, value in changes.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    with caplog.at_level(logging.DEBUG), pytest.raises(error, match=message) as raised:
        built(tiny_recipe, tmp_path / "work", url)
    assert not list((tmp_path / "work" / "store" / "entries").iterdir())
    assert SECRET not in str(raised.value) + caplog.text


def test_a_cleaning_is_asked_for_by_name_and_leaves_this_machine_alone(
    tiny_recipe: Path, shared_workdir: Path, s3: dict[str, str], mmdeploy_command: Run, tmp_path: Path
) -> None:
    url = "s3://team/cleaned"
    built(tiny_recipe, shared_workdir, url)
    here = set(Store(shared_workdir / "store").root.joinpath("entries").iterdir())
    cleaned = mmdeploy_command("gc", "--store", url, "--max-gib", "0", environment=s3)
    assert cleaned.returncode == 0, cleaned.stderr
    assert cleaned.stdout.startswith("3 step results and 0 files of none,"), "contents are too young"
    assert f"removed from {url}; 0 step results kept" in cleaned.stdout
    assert set((shared_workdir / "store" / "entries").iterdir()) == here
