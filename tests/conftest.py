"""Fixtures that several kinds of tests share."""

import contextlib
import gc
import io
import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

import hypothesis
import pytest

# No time by the clock is asserted, not that of an example or of what draws it either: a busy machine is no fault.
hypothesis.settings.register_profile(
    "no deadline",
    parent=hypothesis.settings(),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("no deadline")

# A shell that starts the tests in the background has them ignore Ctrl-C, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What a runner of GitHub's sets has commands say more.
for _name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE"):
    os.environ.pop(_name, None)

REPOSITORY = Path(__file__).parents[1]
#: Has commands print without colours, and as wide everywhere.
PLAIN = {"NO_COLOR": "1", "COLUMNS": "120"}


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name files by their size: encoders write the time into some, and two test processes must agree on the names."""
    return f"{argname}-{len(val)}-bytes" if isinstance(val, bytes) else None


#: Folders of tests of passes that ask for full collections, and after how many of these tests all garbage goes.
_COLLECTING, _EVERY = {"quantize", "contract"}, 50
_ran = itertools.count(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Have collections that a pass asks for visit what the test makes, as in a step of a build, whose process is new.

    A full one visits all else, too: the libraries, and what thousands of tests have left.
    """
    if not _COLLECTING & {*item.path.relative_to(REPOSITORY).parts}:
        return (yield)
    gc.freeze()
    try:
        return (yield)
    finally:
        gc.unfreeze()
        if next(_ran) % _EVERY == 0:
            gc.collect()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one process run the tests that share a fixture of their module: two would each make it."""
    for item in items:
        fixtures = getattr(item, "_fixtureinfo", None)
        made = [found[-1].scope for found in fixtures.name2fixturedefs.values()] if fixtures else []
        if "module" in made and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Path:
    """A copy of the tiny recipe's folder, to be changed at will; returns its recipe.yaml."""
    folder = tmp_path / "recipe"
    shutil.copytree(REPOSITORY / "tests" / "tiny_recipe", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "recipe.yaml"


@pytest.fixture(scope="session")
def shared_workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder that builds of one test process share: what one has made, the next reuses."""
    return tmp_path_factory.mktemp("workdir")


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def mmdeploy_process(tmp_path: Path) -> Command:
    """Run ``mmdeploy`` as a user would, in a process of its own, in ``tmp_path``."""

    def run(
        *arguments: object, environment: Mapping[str, str] | None = None, **options: object
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", "from mmdeploy.cli import main; main()", *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), **PLAIN} | (environment or {}),
            capture_output=True,
            text=True,
            timeout=560,
            check=False,
            **options,  # type: ignore[call-overload]
        )

    return run


@pytest.fixture
def mmdeploy_command(mmdeploy_process: Command, tmp_path: Path) -> Command:
    """Run ``mmdeploy`` in ``tmp_path``, and give what it printed and its exit code.

    In this process, which imports the libraries once for all commands and has one fork server for their steps: in one
    of its own a small build spends two thirds of its processor time on imports. What is given an environment or options
    has a process of its own.
    """

    def run(*arguments: object, **options: object) -> "subprocess.CompletedProcess[str]":
        if options:
            return mmdeploy_process(*arguments, **options)
        from mmdeploy.cli import commands
        from mmdeploy.cli.outcome import run as run_here

        argv = [*map(str, arguments)]
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        log = logging.StreamHandler(err)
        log.setLevel(logging.WARNING)
        log.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        with pytest.MonkeyPatch.context() as patched:
            patched.chdir(tmp_path)
            for name, value in PLAIN.items():
                patched.setenv(name, value)
            logging.getLogger().addHandler(log)
            try:
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    code = run_here(commands, argv)
            finally:
                logging.getLogger().removeHandler(log)
        said = [stream.buffer.getvalue().decode("utf-8") for stream in (out, err)]  # type: ignore[attr-defined]
        return subprocess.CompletedProcess(argv, code, *said)

    return run
