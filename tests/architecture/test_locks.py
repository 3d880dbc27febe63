"""What CI installs is written down: ci/locks has one version of everything that pyproject.toml asks for."""

import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
INSTALLED = ("cpu", "dev")
LOCKS = {path.stem: path for path in sorted((REPOSITORY / "ci" / "locks").iterdir())}
HERE = f"py{sys.version_info.major}{sys.version_info.minor}"

each_lock = pytest.mark.parametrize("lock", LOCKS)


def pins(lock: str) -> dict[str, str]:
    lines = [line for line in LOCKS[lock].read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def wanted(extras: tuple[str, ...] = INSTALLED) -> Iterator[Requirement]:
    """Every requirement of the project with some of its extras, and what builds it."""
    texts = [*PROJECT["dependencies"], *PYPROJECT["build-system"]["requires"]]
    for requirement in map(Requirement, texts):
        yield requirement
    for extra in extras:
        for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
            if requirement.name == PROJECT["name"]:
                yield from wanted(tuple(requirement.extras))
            else:
                yield requirement


def environment(lock: str) -> dict[str, str]:
    version = f"3.{lock.removeprefix('py3')}"
    return {"python_version": version, "python_full_version": f"{version}.0", "sys_platform": "linux"}


def test_each_python_that_the_project_takes_has_a_lock():
    accepted = SpecifierSet(PROJECT["requires-python"])
    assert list(LOCKS) == [f"py3{minor}" for minor in range(30) if f"3.{minor}" in accepted]


@each_lock
def test_a_lock_is_versions_alone(lock: str):
    """No ranges, hashes, options, addresses or local builds, and not the project itself."""
    comment, *lines = LOCKS[lock].read_text().splitlines()
    assert comment.startswith("# ")
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    assert lines == sorted(lines, key=lambda line: line.split("==")[0])
    assert len(pins(lock)) == len(lines)
    assert PROJECT["name"] not in pins(lock)


@each_lock
def test_a_lock_keeps_every_requirement(lock: str):
    """Whoever changes pyproject.toml runs ci/lock."""
    locked, broken = pins(lock), []
    for requirement in wanted():
        if requirement.marker is None or requirement.marker.evaluate(environment(lock)):
            version = locked.get(canonicalize_name(requirement.name))
            if version is None or version not in requirement.specifier:
                broken.append(f"{requirement}: locked is {version}")
    assert broken == [], "run ci/lock"


@each_lock
def test_nothing_of_cuda_is_locked(lock: str):
    """A torch with CUDA names the exact versions that it needs; the one without needs none."""
    assert [name for name in pins(lock) if re.match(r"cuda-|triton$|nvidia-(cu|nccl|nv)", name)] == []


@pytest.mark.skipif(HERE not in LOCKS, reason=f"no lock for {HERE}")
def test_all_that_is_installed_here_for_the_project_is_locked():
    """What requirements require, too, so that nothing comes in whatever version the index has today."""
    asked, found = [(PROJECT["name"], extra) for extra in ("", *INSTALLED)], set[tuple[str, str]]()
    while asked:
        name, extra = one = asked.pop()
        if one in found:
            continue
        found.add(one)
        try:
            texts = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of a tensorrt or torch that is not this one
        for requirement in map(Requirement, texts):
            # The markers of torch are those of its CUDA packages.
            if requirement.marker and (name == "torch" or not requirement.marker.evaluate({"extra": extra})):
                continue
            asked += [(canonicalize_name(requirement.name), each) for each in ("", *requirement.extras)]
    missing = {name for name, _ in found} - pins(HERE).keys() - {PROJECT["name"]}
    assert missing == set(), "run ci/lock"
