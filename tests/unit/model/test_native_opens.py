"""The kernel tells which files this process opens; another one's opens count where it may work for this one."""

import ctypes
import json
import multiprocessing
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from mmdeploy.model.fanotify import Fanotify
from mmdeploy.model.native_opens import NativeOpens
from mmdeploy.model.other_processes import may_read
from mmdeploy.model.watching import reading, watched

libc = ctypes.CDLL(None, use_errno=True)


def can_say_who() -> bool:
    asked = Fanotify()
    try:
        return asked.add("/", folder=True)
    finally:
        asked.close()


says_who = pytest.mark.skipif(not can_say_who(), reason="the kernel does not say who opened a file")


def opens_natively(path: Path) -> None:
    descriptor = libc.open(os.fsencode(path), 0)
    assert descriptor >= 0, path
    libc.close(descriptor)


def refuse(*calls: str) -> None:
    """Have the kernel refuse system calls to this process, as a container's sandbox does."""
    numbers = {
        "x86_64": {"fanotify_init": 300, "fanotify_mark": 301, "inotify_init1": 294, "name_to_handle_at": 303},
        "aarch64": {"fanotify_init": 262, "fanotify_mark": 263, "inotify_init1": 26, "name_to_handle_at": 264},
    }[os.uname().machine]
    program = [(0x20, 0, 0, 0)]  # load the call's number
    for index, call in enumerate(calls):
        program.append((0x15, len(calls) - index, 0, numbers[call]))  # equal: to the last line
    program += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050001)]  # allowed; EPERM
    text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(text)))
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, head, 0, 0) == 0, os.strerror(ctypes.get_errno())  # PR_SET_SECCOMP


def without_fanotify() -> None:
    refuse("fanotify_init")


def without_marks() -> None:
    refuse("fanotify_mark")


def without_handles() -> None:
    refuse("name_to_handle_at")


def without_anything() -> None:
    refuse("fanotify_init", "inotify_init1")


def as_any_user() -> None:
    """Give up what root may more, and keep its files readable."""
    head, known = struct.pack("=Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    assert libc.capget(head, known) == 0
    effective, permitted, *others = struct.unpack("=6I", known.raw)
    kept = ~(1 << 21)  # CAP_SYS_ADMIN
    assert libc.capset(head, struct.pack("=6I", effective & kept, permitted & kept, *others)) == 0


def as_it_is() -> None:
    pass


# What a process does between the opens of others and asking for what was opened.


def nothing(_: Path) -> None:
    pass


def by_itself(folder: Path) -> None:
    opens_natively(folder / "own")


def by_a_thread(folder: Path) -> None:
    thread = threading.Thread(target=opens_natively, args=(folder / "own",))
    thread.start()
    thread.join()


def by_a_fork(folder: Path) -> None:
    child = os.fork()
    if not child:
        opens_natively(folder / "own")
        os._exit(0)
    os.waitpid(child, 0)


def by_a_program(folder: Path) -> None:
    subprocess.run(["cat", folder / "own"], check=True)


def by_a_program_that_native_code_starts(folder: Path) -> None:
    assert libc.system(b"cat " + os.fsencode(folder / "own")) == 0


def by_a_worker(folder: Path) -> None:
    worker = multiprocessing.get_context("spawn").Process(target=opens_natively, args=(folder / "own",))
    worker.start()
    worker.join()


def by_a_child_that_is_still_there(folder: Path) -> None:
    ours, its = socket.socketpair()
    if not os.fork():
        opens_natively(folder / "own")
        its.send(b"opened")
        time.sleep(1)  # and ends when nobody asks any more
        os._exit(0)
    assert ours.recv(6) == b"opened"


def by_what_a_child_left_running(folder: Path) -> None:
    ours, its = socket.socketpair()
    child = os.fork()
    if not child:
        if not os.fork():
            its.recv(7)
            opens_natively(folder / "own")
            its.send(b"opened")
        os._exit(0)
    os.waitpid(child, 0)
    ours.send(b"go on")
    assert ours.recv(6) == b"opened"


def by_a_child_that_nobody_waits_for(folder: Path) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    spawned = libc.fork()  # not Python's: no audit event
    if not spawned:
        opens_natively(folder / "own")
        libc._exit(0)
    with pytest.raises(ChildProcessError):
        os.waitpid(spawned, 0)  # until it has ended


WORKERS = [
    by_a_fork, by_a_program, by_a_program_that_native_code_starts, by_a_worker, by_a_child_that_is_still_there,
    by_what_a_child_left_running, by_a_child_that_nobody_waits_for,
]  # fmt: skip


def step(answers: Connection, folder: Path, before: Callable[[], None], work: Callable[[Path], None]) -> None:
    """Be a step's process: look at a folder, let another process open, work, and say what was opened."""
    before()
    opens = NativeOpens(lambda _: False)
    opens.look_below(folder)
    answers.send("looking")
    answers.recv()
    work(folder)
    answers.send((sorted(os.path.relpath(path, folder) for path in opens.opened()), opens.problem))


def told(
    folder: Path,
    work: Callable[[Path], None],
    *,
    before: Callable[[], None] = as_it_is,
    meanwhile: Callable[[], object] | None = None,
) -> tuple[list[str], str]:
    """Return what a new process that does some work tells of a folder, and what it cannot see.

    Meanwhile this process, which is none of its children, opens the file ``other``.
    """
    ours, its = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=step, args=(its, folder, before, work))
    process.start()
    its.close()
    assert ours.recv() == "looking"
    (meanwhile or (lambda: opens_natively(folder / "other")))()
    ours.send("go on")
    answer: tuple[list[str], str] = ours.recv()
    process.join()
    return answer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("own", "other", "unread"):
        (tmp_path / name).write_text("{}")
    return tmp_path


@says_who
@pytest.mark.parametrize("before", [as_it_is, as_any_user])
@pytest.mark.parametrize("work", [by_itself, by_a_thread])
def test_own_opens_are_told_and_not_those_of_others(
    folder: Path, work: Callable[[Path], None], before: Callable[[], None]
) -> None:
    assert told(folder, work, before=before) == (["own"], "")


@pytest.mark.parametrize("before", [as_it_is, as_any_user, without_fanotify])
@pytest.mark.parametrize("work", WORKERS)
def test_whatever_may_work_for_a_process_is_seen_to_open(
    folder: Path, work: Callable[[Path], None], before: Callable[[], None]
) -> None:
    assert told(folder, work, before=before) == (["other", "own"], "")


@pytest.mark.parametrize("before", [without_fanotify, without_marks, without_handles])
def test_where_the_kernel_does_not_say_who_opened_all_opens_count(folder: Path, before: Callable[[], None]) -> None:
    assert told(folder, by_itself, before=before) == (["other", "own"], "")


def test_where_the_kernel_tells_nothing_that_is_said(folder: Path) -> None:
    files, problem = told(folder, by_itself, before=without_anything)
    assert files == []
    assert problem.startswith("the kernel does not tell which files are opened")


@pytest.mark.parametrize("before", [as_it_is, without_fanotify])
def test_a_file_behind_a_link_is_told_by_the_link(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, before: Callable[[], None]
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "target"
    (folder / "own").rename(elsewhere)
    (folder / "own").symlink_to(elsewhere)
    (folder / "deep").mkdir()
    (folder / "deep" / "link").symlink_to(elsewhere)
    files, problem = told(folder, by_itself, before=before, meanwhile=lambda: None)
    assert {"own", "deep/link"} & {*files} and problem == ""


@says_who
def test_what_another_process_opens_behind_a_link_is_not_told(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "target"
    (folder / "other").rename(elsewhere)
    (folder / "other").symlink_to(elsewhere)
    assert told(folder, by_itself) == (["own"], "")


def makes_and_opens(folder: Path) -> None:
    (folder / "new").write_text("")
    by_itself(folder)


def test_a_file_that_appears_in_a_folder_is_told(folder: Path) -> None:
    assert told(folder, makes_and_opens, meanwhile=lambda: None) == (["new", "own"], "")


def opens_another(folder: Path) -> None:
    opens_natively(folder / "other")


@says_who
def test_a_file_that_both_open_is_told(folder: Path) -> None:
    """The kernel merges opens of one file only if one process made them."""

    def several() -> None:
        for _ in range(3):
            opens_natively(folder / "other")

    assert told(folder, opens_another, meanwhile=several) == (["other"], "")


def opens_many(folder: Path) -> None:
    kept = max(int(limit.read_text()) for limit in Path("/proc/sys/fs").glob("*notify/max_queued_events"))
    for number in range(kept + 10):
        path = folder / f"{number}"
        path.write_text("")
        path.unlink()


@pytest.mark.parametrize("before", [as_any_user, without_fanotify])
def test_more_opens_than_the_kernel_keeps_are_a_problem(folder: Path, before: Callable[[], None]) -> None:
    assert told(folder, opens_many, before=before)[1] == "more files were opened at once than the kernel keeps note of"


def with_two_marks() -> None:
    """Have the kernel tell of two folders at most by whom; other folders are as on a file system that it cannot."""
    user, group = os.getuid(), os.getgid()
    if libc.unshare(0x10000000):  # CLONE_NEWUSER
        raise PermissionError(ctypes.get_errno(), "no namespace of users")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    Path("/proc/sys/user/max_fanotify_marks").write_text("2")


def can_limit_marks() -> bool:
    """Say whether a process may have limits of its own."""
    process = multiprocessing.get_context("fork").Process(target=with_two_marks)
    process.start()
    process.join()
    return process.exitcode == 0


def opens_in_each_folder(folder: Path) -> None:
    for name in "abcd":
        opens_natively(folder / name / "own")


@says_who
def test_a_folder_for_which_the_kernel_cannot_say_who_is_looked_at_as_well(folder: Path) -> None:
    if not can_limit_marks():
        pytest.skip("a process may not limit itself")
    for name in "abcd":
        (folder / name).mkdir()
        (folder / name / "own").write_text("")
        (folder / name / "other").write_text("")

    def meanwhile() -> None:
        for name in "abcd":
            opens_natively(folder / name / "other")

    files, problem = told(folder, opens_in_each_folder, before=with_two_marks, meanwhile=meanwhile)
    assert [name for name in files if name.endswith("own")] == ["a/own", "b/own", "c/own", "d/own"]
    assert 0 < sum(name.endswith("other") for name in files) < 4, "all opens count where it is not known who opened"
    assert problem == ""


def window(answers: Connection, root: Path, log: Path, work: Callable[[Path], None]) -> None:
    """Be a step's process with two windows; say what was noted for each."""
    with watched(root, log):
        for reader in ("first", "second"):
            with reading(reader):
                answers.send("open")
                answers.recv()
                work(root)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    answers.send([(reader, os.path.relpath(what, root)) for reader, how, what, _ in lines if how in ("native", "read")])


def noted(root: Path, log: Path, work: Callable[[Path], None]) -> list[tuple[str, str]]:
    ours, its = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=window, args=(its, root, log, work))
    process.start()
    its.close()
    for name in ("other", "unread"):
        assert ours.recv() == "open"
        opens_natively(root / name)
        ours.send("go on")
    answer: list[tuple[str, str]] = ours.recv()
    process.join()
    return answer


def forks_after_a_child(answers: Connection) -> None:
    answers.send(may_read())
    subprocess.run(["true"], check=True)
    answers.send(may_read())
    if not os.fork():
        answers.send(may_read())
        os._exit(0)
    os.wait()


def test_what_a_child_left_may_read_for_processes_that_are_forked_later() -> None:
    """The process that holds the model forks the steps: what the model's factory left running may read for them."""
    ours, its = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=forks_after_a_child, args=(its,))
    process.start()
    assert [ours.recv() for _ in range(3)] == [False, True, True]
    process.join()


def asks_a_server(root: Path) -> None:
    with socket.socket() as one, pytest.raises(OSError):
        one.connect(("127.0.0.1", 9))


@says_who
def test_what_a_step_beside_it_opens_is_not_the_callable_s(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = tmp_path_factory.mktemp("logs") / "1.reads"
    assert noted(folder, log, by_itself) == [("first", "own"), ("second", "own")]
    log.unlink()
    assert noted(folder, log, nothing) == []


@pytest.mark.parametrize("work", [by_a_program, asks_a_server])
def test_what_a_step_beside_it_opens_counts_while_others_may_work_for_the_callable(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, work: Callable[[Path], None]
) -> None:
    found = noted(folder, tmp_path_factory.mktemp("logs") / "1.reads", work)
    assert {("first", "other"), ("second", "unread")} <= {*found}
