"""How commands end: exit codes, messages, and no traceback for what a user can cause."""

import os
import signal
import subprocess
import sys
import termios
import time

import click
import pytest

from mmdeploy.cli import VERBS, commands
from mmdeploy.cli.outcome import EXIT_READER_GONE, run
from mmdeploy.core import errors

PROBLEM = errors.Problem("recipe.yaml:3 target", "'gpu' is not accepted; accepted: cpu")


def ending(error):
    """A command that ends with ``error``."""

    def callback():
        raise error

    return click.Command("verb", callback=callback)


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (
            errors.RecipeError([PROBLEM]),
            2,
            "error: 1 problem in the recipe\nrecipe.yaml:3 target\n    'gpu' is not accepted; accepted: cpu\n",
        ),
        (errors.UsageError("no such report", hint="build first"), 2, "error: no such report\nhint: build first\n"),
        (
            errors.QuantizeError("an input is constant", step="fusion/quantize", log="run/fusion.log"),
            3,
            "error: step fusion/quantize failed: an input is constant\nlog: run/fusion.log\n",
        ),
        (errors.InferenceError("the input is too long"), 3, "error: the input is too long\n"),
        (
            errors.EnvironmentUnfitError("torch is missing", hint="pip install 'multimodal-deploy[cpu]'"),
            4,
            "error: torch is missing\nhint: pip install 'multimodal-deploy[cpu]'\n",
        ),
        (
            MemoryError(),
            4,
            "error: out of memory\nhint: use fewer calibration or evaluation samples, or a machine with more memory\n",
        ),
        (KeyboardInterrupt(), 130, "\nerror: interrupted\n"),
        (SystemExit(15), 130, "error: interrupted\n"),  # SIGTERM, as Ray's handler raises it
        (
            SystemExit(0),
            3,
            "error: code that was run ends the program (0)\n"
            "hint: look for sys.exit in the code that the command line or the recipe names\n",
        ),
        (click.FileError("x.yaml", "no such file"), 2, "error: Could not open file 'x.yaml': no such file\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_ending_has_its_code_and_its_words(capsys, error, code, told):
    assert run(ending(error), []) == code
    assert capsys.readouterr() == ("", told)


def test_on_a_terminal_an_error_is_wrapped_between_words(monkeypatch, tmp_path):
    wide = "a recipe has a target, and none of the accepted ones is in it"
    path = str(tmp_path / ("x" * 60))
    error = errors.RecipeError([errors.Problem(f"{path}:3 target", wide)])
    seen, terminal = os.openpty()
    monkeypatch.delenv("COLUMNS", raising=False)
    with os.fdopen(terminal, "w") as stream, monkeypatch.context() as patched:
        termios.tcsetwinsize(terminal, (24, 50))
        patched.setattr(sys, "stderr", stream)
        patched.setenv("NO_COLOR", "1")
        assert run(ending(error), []) == 2
        told = os.read(seen, 4096).decode().replace("\r\n", "\n")
    os.close(seen)
    assert told == (
        f"error: 1 problem in the recipe\n{path}:3\ntarget\n    a recipe has a target, and none of the\n"
        "    accepted ones is in it\n"
    )


def test_a_current_folder_that_is_gone_is_no_bug(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    assert run(click.Command("verb", callback=os.getcwd), []) == 2
    assert capsys.readouterr().err == "error: the current folder is gone\nhint: cd to one that is there\n"


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1), (5, 5)])
def test_a_verb_returns_its_exit_code(returned, code):
    assert run(click.Command("verb", callback=lambda: returned), []) == code


def test_a_bug_leaves_a_file_with_everything_a_report_needs(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    command = ending(KeyError("lost"))
    command.params.append(click.Argument(["words"], nargs=-1, expose_value=False))
    assert run(command, ["a b"]) == 70
    (saved,) = tmp_path.iterdir()
    assert capsys.readouterr().err == f"error: a bug in mmdeploy (KeyError: 'lost'); please report it with {saved}\n"
    text = saved.read_text()
    assert "command: mmdeploy 'a b'\n" in text
    assert "\npydantic: 2." in text
    assert "Traceback (most recent call last)" in text
    assert text.rstrip().endswith("KeyError: 'lost'")


def test_a_bug_where_nothing_can_be_saved_is_printed(capsys, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    assert run(ending(ValueError("x")), []) == 70
    told = capsys.readouterr().err
    assert "Traceback (most recent call last)" in told
    assert told.endswith("error: a bug in mmdeploy (ValueError: x); please report what is printed above\n")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (
            ["vlidate"],
            f"error: no such command 'vlidate'; did you mean 'validate'? accepted: {', '.join(sorted(VERBS))}\n"
            "hint: mmdeploy --help shows what is accepted\n",
        ),
        (["validate"], "error: Missing argument 'RECIPE'.\nhint: mmdeploy validate --help shows what is accepted\n"),
    ],
)
def test_a_wrong_command_line(capsys, argv, told):
    assert run(commands, argv) == 2
    assert capsys.readouterr() == ("", told)


def test_a_misspelt_option_is_guessed(capsys):
    assert run(commands, ["validate", "--jso"]) == 2
    assert "--json" in capsys.readouterr().err


def mmdeploy(*argv, **options):
    program = [sys.executable, "-c", "from mmdeploy.cli import main; main()", *argv]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_a_reader_that_has_seen_enough_is_no_error():
    process = mmdeploy("list")
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == EXIT_READER_GONE


def test_ctrl_c_ends_with_one_line_and_130(tmp_path):
    pipe = tmp_path / "recipe.yaml"
    os.mkfifo(pipe)
    process = mmdeploy("validate", str(pipe))
    writer = open_for_writing(pipe)  # now the command waits for what we never write
    try:
        told = interrupted(process)
    finally:
        os.close(writer)
    assert process.returncode == 130
    assert told.strip() == "error: interrupted"


def interrupted(process):
    """Press Ctrl-C until the process ends: one that comes just before it blocks in a system call does not wake it."""
    for _ in range(20):
        process.send_signal(signal.SIGINT)
        try:
            return process.communicate(timeout=10)[1]
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("Ctrl-C does not end it")


def open_for_writing(pipe):
    """Open a FIFO as soon as somebody has opened it for reading."""
    for _ in range(1200):
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the command never opened the recipe")


def test_colour_is_for_terminals_that_want_it(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    run(ending(errors.UsageError("x")), [])
    assert "\x1b[31m" in capsys.readouterr().err
    monkeypatch.setenv("NO_COLOR", "1")
    run(ending(errors.UsageError("x")), [])
    assert capsys.readouterr().err == "error: x\n"
