"""What a recipe's code reads is seen while it runs, however it reads, and nothing else is."""

# ruff: noqa: PTH110, PTH112, PTH116, PTH118, PTH123

import ctypes
import importlib
import inspect
import linecache
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mmdeploy.core.digests import FileFacts
from mmdeploy.core.errors import StepError
from mmdeploy.core.store import Store
from mmdeploy.data.samples import stream
from mmdeploy.model import watching
from mmdeploy.model.imports import code_behind
from mmdeploy.model.log_of_reads import readings
from mmdeploy.model.reads import ABSENT, Reading
from mmdeploy.model.watching import reading, watched


class Project:
    """A recipe's folder with files beside it and elsewhere, and the reading of one window in it."""

    def __init__(self, tmp_path: Path) -> None:
        self.root, self.outside = tmp_path / "recipe", tmp_path / "elsewhere" / "deep"
        self.root.mkdir()
        self.outside.mkdir(parents=True)
        self.store = Store(tmp_path / "w" / "store")
        for folder in (self.root, self.outside):
            (folder / "arch.json").write_text("{}")
            (folder / "unread.json").write_text("{}")
            np.save(folder / "samples.npy", np.ones(3))
            save_file({"x": torch.ones(3)}, folder / "w.safetensors")
            torch.save({"x": torch.ones(3)}, folder / "w.pt")

    def read(self, *windows: tuple[str, Callable[[], object]], code: str = "pass", **named: str) -> dict[str, Reading]:
        """Run actions in windows under names; each name is taken for a callable of model.py."""
        (self.root / "model.py").write_text(code)
        logs = self.store.root / "staging"
        behind = code_behind("model.py:build", self.root)
        with watched(self.root, logs / "1.reads", ignored=(self.store.root,), hints=behind.paths):
            for reader, action in windows:
                with reading(reader):
                    action()
        found = readings(logs, {reader: behind for reader, _ in windows}, self.store, self.root)
        (logs / "1.reads").unlink()
        return found

    def files(self, action: Callable[[], object], **how: str) -> dict[str, str]:
        return dict(self.read(("model.py:build", action), **how)["model.py:build"].files)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    yield Project(tmp_path)
    for name in ("model", "layers"):
        sys.modules.pop(name, None)


def by_mmap_of_c(path: Path) -> None:
    libc = ctypes.CDLL(None)
    descriptor = libc.open(os.fsencode(path), 0)
    assert descriptor >= 0
    libc.close(descriptor)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "open": ("arch.json", lambda path: path.read_text()),
    "os.open": ("arch.json", lambda path: os.close(os.open(path, os.O_RDONLY))),
    "numpy": ("samples.npy", np.load),
    "memmap": ("samples.npy", lambda path: np.load(path, mmap_mode="r")),
    "update in place": ("samples.npy", lambda path: np.load(path, mmap_mode="r+")),
    "safetensors": ("w.safetensors", load_file),
    "safetensors by text": ("w.safetensors", lambda path: load_file(str(path))),
    "torch": ("w.pt", torch.load),
    "torch mmap": ("w.pt", lambda path: torch.load(path, mmap=True)),
    "torch from_file": ("samples.npy", lambda path: torch.from_file(str(path), size=3)),
    "C": ("arch.json", by_mmap_of_c),
    "test for existence": ("arch.json", lambda path: path.is_file() or os.path.exists(path)),
    "another program": ("arch.json", lambda path: subprocess.run(["cat", path], stdout=subprocess.DEVNULL, check=True)),
}


@pytest.mark.parametrize("place", ["root", "folder", "outside", "symlink", "linked folder"])
@pytest.mark.parametrize("how", READERS)
def test_a_file_is_seen_however_and_wherever_it_is_read(project: Project, how: str, place: str) -> None:
    name, read = READERS[how]
    folder = {"root": project.root, "folder": project.root / "deep" / "er", "outside": project.outside}.get(place)
    if place == "folder":
        project.outside.rename(project.root / "moved")
        (project.root / "deep").mkdir()
        (project.root / "moved").rename(project.root / "deep" / "er")
    if place == "symlink":
        folder = project.root / "links"
        folder.mkdir()
        (folder / name).symlink_to(project.outside / name)
    if place == "linked folder":
        folder = project.root / "link"
        folder.symlink_to(project.outside)
    assert folder is not None
    files = project.files(lambda: read(folder / name))
    told = {str((project.root / one).resolve()) for one in files}
    assert str((folder / name).resolve()) in told
    assert not any("unread" in one for one in told)
    assert all(len(digest) == 64 for digest in files.values())


def test_a_file_read_by_native_code_at_a_place_that_only_the_source_names(project: Project) -> None:
    path = str(project.outside / "w.safetensors")
    assert list(project.files(lambda: load_file(path), code=f"PATH = {path!r}")) == ["../elsewhere/deep/w.safetensors"]


def test_a_folder_is_its_listing_without_what_is_hidden_or_ours(project: Project, tmp_path: Path) -> None:
    def digest(action: Callable[[Path], object] = os.listdir) -> dict[str, str]:
        return project.files(lambda: list(action(project.root / "clips")))  # type: ignore[call-overload]

    (project.root / "clips").mkdir()
    first = digest()
    assert list(first) == ["clips/"]
    for name in (".hidden", "__pycache__"):
        (project.root / "clips" / name).mkdir()
    (project.root / "clips" / "o" / ".releases").mkdir(parents=True)
    assert digest() == first
    assert digest(os.scandir) == first
    (project.root / "clips" / "a.wav").write_text("")
    assert digest() != first
    assert set(digest(lambda path: path.glob("*.wav"))) == {"clips/"}


def test_what_was_looked_for_and_is_not_there_is_noted(project: Project) -> None:
    def look() -> None:
        assert not (project.root / "override.json").exists()
        with pytest.raises(FileNotFoundError):
            open(project.root / "more.json")  # noqa: SIM115
        assert not os.path.isdir(project.root / "no_folder")

    assert project.files(look) == dict.fromkeys(["more.json", "no_folder", "override.json"], ABSENT)


def test_what_a_callable_makes_itself_is_no_input(project: Project, tmp_path: Path) -> None:
    def work() -> None:
        cache = project.root / "cache.npy"
        if not cache.exists():
            np.save(cache, np.ones(3))
        np.load(cache)
        temporary = tmp_path / "temporary"
        temporary.write_text("x")
        temporary.read_text()
        temporary.unlink()
        with (project.root / "log.txt").open("a") as log:
            log.write("x")

    assert project.files(work) == {}


def test_the_interpreter_the_machine_and_code_of_packages_are_no_inputs(project: Project) -> None:
    def work() -> None:
        import email.mime.audio
        import inspect

        inspect.getsource(email.mime.audio)
        inspect.getsource(np.linalg)
        Path("/proc/cpuinfo").read_text()
        Path("/etc/hostname").exists()
        Path(np.__file__).read_text()

    assert project.files(work) == {}


def test_data_of_an_installed_package_is_told_by_its_place_among_the_packages(project: Project) -> None:
    from importlib.resources import files

    found = project.files(lambda: (files("hypothesis") / "py.typed").read_bytes())
    assert list(found) == ["site-packages:hypothesis/py.typed"]


def test_what_a_module_reads_while_it_is_imported_counts_for_all_that_use_it(project: Project) -> None:
    code = "from pathlib import Path\nCONFIG = (Path(__file__).parent / 'arch.json').read_text()\n"
    (project.root / "model.py").write_text(code)
    sys.path.insert(0, str(project.root))
    try:
        found = project.read(("one", lambda: __import__("model")), ("two", lambda: __import__("model")), code=code)
    finally:
        sys.path.remove(str(project.root))
    assert [list(one.files) for one in found.values()] == [["arch.json"]] * len(found)
    assert "one" in found


def test_each_window_has_its_own_reads(project: Project) -> None:
    found = project.read(
        ("one", (project.root / "arch.json").read_text),
        ("two", lambda: load_file(project.root / "w.safetensors")),
        ("one", (project.root / "w.pt").read_bytes),
    )
    assert list(found["one"].files) == ["arch.json", "w.pt"]
    assert list(found["two"].files) == ["w.safetensors"]
    assert found["two"].uncertain == ("w.safetensors",), "only the kernel saw it"


def test_threads_and_forked_processes_are_seen(project: Project) -> None:
    def work() -> None:
        thread = threading.Thread(target=(project.root / "arch.json").read_text)
        thread.start()
        thread.join()
        child = os.fork()
        if not child:
            (project.root / "w.pt").read_bytes()
            os._exit(0)
        os.waitpid(child, 0)

    assert set(project.files(work)) == {"arch.json", "w.pt"}


def test_a_database_is_a_file(project: Project) -> None:
    path = project.root / "labels.db"
    sqlite3.connect(path).execute("create table x (y)").connection.close()
    assert list(project.files(lambda: sqlite3.connect(path).execute("select * from x").connection.close())) == [
        "labels.db"
    ]


def test_what_cannot_be_followed_is_said(project: Project) -> None:
    def work() -> None:
        subprocess.run(["true"], check=True)

    (project.root / "layers.py").write_text("import subprocess\ndef run(): subprocess.run(['true'], check=True)\n")
    sys.path.insert(0, str(project.root))
    try:
        import layers

        found = project.read(("one", layers.run))
    finally:
        sys.path.remove(str(project.root))
    assert found["one"].unseen == ("what the program true reads",)


def install(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install an empty package for the test, and forget it afterwards."""
    site = tmp_path / "venv" / "site-packages"
    (site / name).mkdir(parents=True)
    (site / name / "__init__.py").write_text("")
    (site / f"{name}-1.5.dist-info").mkdir()
    (site / f"{name}-1.5.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, name, raising=False)


def test_packages_that_are_loaded_are_named_with_their_installation(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("mysublib", tmp_path, monkeypatch)
    found = project.read(("one", lambda: __import__("mysublib")))["one"]
    assert dict(found.libraries) == {"mysublib": "1.5"}


@pytest.mark.parametrize("by_model", [True, False], ids=["by the model", "by us"])
def test_a_package_that_is_loaded_between_windows_is_the_models_or_nobodys(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_model: bool
) -> None:
    install("mylatelib", tmp_path, monkeypatch)
    (project.root / "model.py").write_text("def forward():\n    import mylatelib\n    return mylatelib\n")
    monkeypatch.syspath_prepend(str(project.root))
    model, logs = importlib.import_module("model"), project.store.root / "staging"
    ours = compile("import mylatelib", str(Path(watching.__file__).parents[1] / "training" / "loop.py"), "exec")
    with watched(project.root, logs / "1.reads", ignored=(project.store.root,)):
        with reading("model.py:build", lasts=True):
            pass
        model.forward() if by_model else exec(ours, {})
        with reading("data.py:training"):
            pass
    behind = code_behind("model.py:build", project.root)
    found = readings(logs, {"model.py:build": behind, "data.py:training": behind}, project.store, project.root)
    assert dict(found["data.py:training"].libraries) == {}
    assert dict(found["model.py:build"].libraries) == ({"mylatelib": "1.5"} if by_model else {})


def test_a_file_that_changes_while_it_is_read_is_an_error(project: Project) -> None:
    path = project.root / "arch.json"

    def work() -> None:
        path.read_text()
        subprocess.run([sys.executable, "-c", f"open({str(path)!r}, 'w').write('other')"], check=True)

    with pytest.raises(StepError, match=r"arch\.json changed while model\.py:build was running"):
        project.files(work)


def test_the_functions_that_were_stood_in_front_of_are_back(project: Project) -> None:
    before = (os.stat, os.lstat, os.path.join, Path.__str__, Path.__fspath__)
    project.files(lambda: None)
    assert (os.stat, os.lstat, os.path.join, Path.__str__, Path.__fspath__) == before


def test_errors_of_what_is_stood_in_front_of_are_the_same(project: Project) -> None:
    def work() -> None:
        with pytest.raises(FileNotFoundError):
            os.stat(project.root / "nothing")
        with pytest.raises(TypeError):
            os.path.join(None, "x")  # type: ignore[call-overload]
        with pytest.raises(ValueError, match="null"):
            os.stat("a\0b")
        assert os.stat(0).st_mode

    project.files(work)


def test_samples_are_read_in_windows_of_their_callable(project: Project) -> None:
    from mmdeploy.core.artifact import TensorSpec

    (project.root / "data.py").write_text(
        "import numpy as np\nfrom pathlib import Path\n"
        "def calibration():\n    yield {'x': np.load(Path(__file__).with_name('samples.npy')).astype('float32')}\n"
    )
    logs = project.store.root / "staging"
    spec = TensorSpec("x", "FP32", (3,))
    with watched(project.root, logs / "1.reads"):
        assert len(list(stream("data.py:calibration", root=project.root, specs=[spec]))) == 1
        (project.root / "arch.json").read_text()
    code = {"data.py:calibration": code_behind("data.py:calibration", project.root, FileFacts())}
    found = readings(logs, code, project.store, project.root)
    assert list(found["data.py:calibration"].files) == ["samples.npy"]


def test_a_module_that_reads_when_it_is_called_is_the_factory_s(project: Project) -> None:
    logs = project.store.root / "staging"
    (project.root / "model.py").write_text("")
    with watched(project.root, logs / "1.reads"):
        with reading("model.py:build", lasts=True):
            pass
        with reading("data.py:evaluation"):
            (project.root / "w.pt").read_bytes()
        (project.root / "arch.json").read_text()
        (project.outside / "arch.json").read_text()
    code = {"model.py:build": code_behind("model.py:build", project.root)}
    found = readings(logs, code, project.store, project.root)
    assert list(found["model.py:build"].files) == ["arch.json"]


def test_source_that_libraries_look_at_is_not_read(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """`inspect` looks for the source of every loaded module, and tracebacks show lines: code is known as code."""
    source = project.root / "loaded_data.py"
    source.write_text("def calibration():\n    return 1\n")
    monkeypatch.syspath_prepend(str(project.root))
    loaded = importlib.import_module("loaded_data")
    monkeypatch.setitem(sys.modules, "loaded_data", loaded)

    def looks() -> None:
        linecache.clearcache()
        assert "def calibration" in inspect.getsource(loaded.calibration)
        assert source.exists()
        assert not (project.root / "local.py").exists()

    assert project.files(looks) == {"local.py": ABSENT}
    assert {*project.files(source.read_text)} == {"loaded_data.py"}


def test_source_that_only_the_kernel_saw_opened_was_imported_by_another_process(tmp_path: Path) -> None:
    """Another step imports its module, an editor saves it, git reads it: none of that is the model's."""
    project = Project(tmp_path)
    source, weights = project.root / "data.py", project.root / "samples.npy"
    source.write_text("pass")

    def opens() -> None:
        subprocess.run(["cat", str(source), str(weights)], check=True, capture_output=True)

    assert {*project.files(opens)} == {"samples.npy"}
    assert {*project.files(source.read_text)} == {"data.py"}
