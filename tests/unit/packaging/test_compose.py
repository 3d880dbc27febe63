"""Docker compose: on loopback, without rights, and what it names is there."""

import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_binaries import binary
from releases import release

from mmdeploy.cli.gateway import command as gateway_command
from mmdeploy.packaging.containers import container
from mmdeploy.packaging.package import package
from mmdeploy.packaging.settings import PackageSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("packaged")
    live = release(root / "built")
    chosen = PackageSettings(gateway=True, model_control="explicit")
    return package(live, root / "deploy", container("26.08-py3"), chosen).folder


@pytest.fixture(scope="module")
def compose(folder):
    return yaml.safe_load((folder / "compose.yaml").read_text())


def test_everything_listens_on_loopback_and_has_no_rights(compose):
    assert set(compose["services"]) == {"triton", "gateway", "prometheus"}
    for service in compose["services"].values():
        assert service["ports"] and all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service["user"].startswith("0")


def test_what_it_mounts_and_builds_is_there_and_secrets_lie_outside(compose, folder):
    for service in compose["services"].values():
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            assert (folder / source).exists() if source.startswith(".") else source in compose["volumes"]
        if "build" in service:
            assert (folder / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert {one["source"] for one in service.get("secrets", [])} <= compose["secrets"].keys()
    (secret,) = compose["secrets"].values()
    assert not (folder / secret["file"]).resolve().is_relative_to(folder.resolve())


def test_the_gateway_takes_the_arguments_that_it_is_given(compose):
    program, verb, *arguments = compose["services"]["gateway"]["command"]
    assert (program, verb) == ("mmdeploy", "gateway")
    parsed = gateway_command.make_context(verb, [*arguments]).params
    assert parsed["url"] == "http://triton:8000" and parsed["host"] == "0.0.0.0"
    assert f"127.0.0.1:{parsed['port']}:{parsed['port']}" in compose["services"]["gateway"]["ports"]
    assert str(parsed["repository"]) == "/release"  # which the image holds


def test_prometheus_reads_the_services_by_their_names(compose, folder):
    config = yaml.safe_load((folder / "monitoring/prometheus.yml").read_text())
    targets = [target for job in config["scrape_configs"] for one in job["static_configs"] for target in one["targets"]]
    assert {target.partition(":")[0] for target in targets} == {"triton", "gateway"}
    ports = {name: {port.split(":")[2] for port in one["ports"]} for name, one in compose["services"].items()}
    assert all(target.partition(":")[2] in ports[target.partition(":")[0]] for target in targets)


def test_prometheus_takes_its_files(folder):
    ended = subprocess.run(
        [binary("promtool"), "check", "config", folder / "monitoring/prometheus.yml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
