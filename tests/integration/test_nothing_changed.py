"""A build in which nothing changed publishes nothing: what is live is what it would publish, and is looked at first."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import mmdeploy
from mmdeploy.building.builder import Outcome, run_build
from mmdeploy.building.provenance import PROVENANCE
from mmdeploy.building.settings import Settings
from mmdeploy.record.observer import Silent
from mmdeploy.record.report_file import read_report
from mmdeploy.report.wording import repository
from mmdeploy.triton.repository import activate, releases, verify

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("builds")]

NAME = "two_towers"
MODEL = f"{NAME}.left/1/model.onnx"
Build = Callable[..., Outcome]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the builds of this module publish."""
    return tmp_path / "models"


@pytest.fixture
def build(tiny_recipe: Path, shared_workdir: Path, root: Path) -> Build:
    """Builds the tiny recipe without gates."""

    def run(*overrides: str, **settings: object) -> Outcome:
        loaded = mmdeploy.load_recipe(tiny_recipe, ["gates=[]", *overrides])
        settings = {"workdir": shared_workdir, "destination": root, **settings}
        outcome = run_build(loaded, Settings(**settings), Silent())  # type: ignore[arg-type]
        if outcome.error is not None:
            raise outcome.error
        return outcome

    return run


def ids(root: Path) -> list[str]:
    return [one.release_id for one in releases(root, NAME)]


def test_it_names_the_release_that_is_live_and_leaves_it_as_it_is(build: Build, root: Path) -> None:
    first = build()
    times = {path: path.stat().st_mtime_ns for path in (root / NAME).resolve().rglob("*")}
    again = build()
    assert ids(root) == [first.report.release] == [first.folder.name]
    assert not first.report.already_published
    assert again.report.already_published
    assert (again.report.release, again.report.published) == (first.folder.name, root / NAME)
    assert again.report.exit_code == 0
    words, place = repository(again.report)
    assert words == f"nothing changed; already published as {first.folder.name}"
    assert place == root / NAME
    assert read_report(root / NAME).release == first.folder.name
    assert {path: path.stat().st_mtime_ns for path in (root / NAME).resolve().rglob("*")} == times
    assert (again.folder / PROVENANCE).is_file()
    assert not again.report.staged.exists()


def test_nothing_shares_its_bytes_with_a_release(build: Build, root: Path) -> None:
    outcome = build()
    files = [path for path in (root / NAME).resolve().rglob("*") if path.is_file()]
    assert {path.stat().st_nlink for path in files} == {1}
    assert (outcome.report.staged / MODEL).stat().st_ino != (root / NAME / MODEL).stat().st_ino


def flip_a_byte(release: Path) -> None:
    """Change one byte, and give the file back its size and time."""
    path = release / MODEL
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def edit_a_config(release: Path) -> None:
    path = release / NAME / "config.pbtxt"
    path.write_text(path.read_text() + "# edited\n")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flip_a_byte, f"{MODEL} was changed"),
        (edit_a_config, f"{NAME}/config.pbtxt was changed"),
        (lambda release: (release / MODEL).unlink(), f"{MODEL} is missing"),
        (lambda release: (release / NAME / "2").mkdir(), f"{NAME}/2/ is not in manifest.json"),
        (lambda release: (release / PROVENANCE).write_text("{}"), ""),
    ],
    ids=["a flipped byte", "an edited config", "a lost file", "a version more", "another provenance"],
)
def test_what_is_damaged_is_published_anew_and_told(
    build: Build, root: Path, damage: Callable[[Path], None], told: str
) -> None:
    build()
    build()  # every file of the release has been read now, and is known
    damage((root / NAME).resolve())
    outcome = build()
    assert outcome.report.release == outcome.folder.name
    assert (root / NAME).resolve().name == outcome.folder.name
    assert verify((root / NAME).resolve()) == ()
    notes = [note for note in outcome.report.notes if note.startswith("What was live is not what was published")]
    assert [told in note for note in notes] == ([True] if told else [])
    assert read_report(root / NAME).notes == outcome.report.notes


def test_a_damaged_entry_of_the_store_is_made_again_and_comes_to_what_is_live(
    build: Build, root: Path, shared_workdir: Path
) -> None:
    first = build()
    key = next(step.key for step in first.report.steps if step.id == "left/engine")
    flip_a_byte_of = shared_workdir / "store" / "entries" / key / "model.onnx"
    flip_a_byte_of.write_bytes(flip_a_byte_of.read_bytes()[:-1])
    again = build()
    assert [step.id for step in again.report.steps if step.status == "ran"] == ["left/engine"]
    assert again.report.release == first.folder.name
    assert verify((root / NAME).resolve()) == ()


def test_another_recipe_another_live_release_or_a_key_to_sign_with_is_published(
    build: Build, root: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    first = build().folder.name
    tiny_recipe.write_text(tiny_recipe.read_text() + "# the same, in other words\n")
    second = build()
    assert ids(root) == [first, second.report.release], "its provenance names the recipe's file"
    activate(root, NAME, first)
    third = build()
    assert third.report.release == third.folder.name == (root / NAME).resolve().name
    key = _key(tmp_path)
    assert build(sign_key=key).report.release != third.folder.name
    study = build(publishes=False)
    assert study.report.release is None
    assert (study.report.staged / MODEL).is_file()


def test_the_command_tells_it_in_words_and_in_json(
    build: Build, root: Path, tiny_recipe: Path, shared_workdir: Path, mmdeploy_command: Callable[..., object]
) -> None:
    first = build().folder.name
    asked = ("build", tiny_recipe, "--workdir", shared_workdir, "--output", root, "--set", "gates=[]")
    done = mmdeploy_command(*asked)
    assert done.returncode == 0  # type: ignore[attr-defined]
    assert re.search(rf"nothing changed; already published as {first}:\s+{root}", done.stdout)  # type: ignore[attr-defined]
    done = mmdeploy_command(*asked, "--json")
    assert f'"release": "{first}"' in done.stdout  # type: ignore[attr-defined]


def _key(folder: Path) -> Path:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    path = folder / "key.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    return path
