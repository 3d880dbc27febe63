"""Clusters that are not there: one clear error, soon."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmdeploy.cluster import connection
from mmdeploy.core.errors import EnvironmentUnfitError, UsageError


@pytest.mark.parametrize("where", ["ray", "auto", "ray://head:10001", "head:6379", "ray://[::1]:10001", "10.0.0.1:1"])
def test_addresses(where: str) -> None:
    assert connection.check_address(where) == where


@pytest.mark.parametrize("where", ["", "rays", "ray://head", "head", "http://head:8265", "head:port", "a b:1"])
def test_what_is_no_address(where: str) -> None:
    with pytest.raises(UsageError, match="names no cluster"):
        connection.check_address(where)


@pytest.mark.parametrize("where", ["127.0.0.1:1", "ray://127.0.0.1:1", "ray://no-such-host.invalid:10001"])
def test_a_cluster_that_cannot_be_reached(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    asked: list[object] = []
    monkeypatch.setattr(ray, "init", lambda *_, **given: asked.append(given))
    with (
        pytest.raises(EnvironmentUnfitError, match=f"no Ray cluster at {where}") as caught,
        connection.connected(where),
    ):
        pass
    assert caught.value.hint is not None
    assert "ray start --head" in caught.value.hint
    assert asked == [], "Ray itself was asked, which waits"


def test_a_cluster_of_this_machine_is_not_started_again_when_we_are_asked_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    starts: list[int] = []

    def asked_to_end(**_: object) -> None:
        starts.append(1)
        sys.exit(signal.SIGTERM)  # as Ray's own handler does

    monkeypatch.setattr(ray, "init", asked_to_end)
    with pytest.raises(SystemExit), connection.connected("ray"):
        pass
    assert len(starts) == 1


def test_without_ray_the_extra_is_named(tiny_recipe: Path, tmp_path: Path) -> None:
    script = (
        "import sys, importlib.util as u\n"
        "found = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'ray' else found(name, *rest)\n"
        "from mmdeploy.cli import main\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, "build", str(tiny_recipe), "--on", "ray", "--workdir", str(tmp_path / "work")],
        capture_output=True, text=True, cwd=Path(__file__).parents[3], timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 4
    assert "Ray is not installed in this environment" in ended.stderr
    assert "pip install 'multimodal-deploy[ray]'" in ended.stderr
    assert not (tmp_path / "work").exists()
