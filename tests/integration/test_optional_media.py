"""Files that a request may leave out, beside text that is padded to buckets: built, and served by a real Triton."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from served_gateway import Served, error_of, gateway
from settled_counts import settled
from whole_recipe import built, served
from whole_recipe import executions as counted

import mmdeploy
from mmdeploy.building.builder import Outcome
from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import DataError, InferenceError
from mmdeploy.model.sources import resolve_callable
from mmdeploy.preprocess import Pipeline
from mmdeploy.recipe.media import in_order
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.lint import lint
from mmdeploy.triton.repository import resolve
from mmdeploy.triton.response_cache import settings_of
from mmdeploy.triton.server import Server

pytestmark = [pytest.mark.triton, pytest.mark.slow]

FOLDER = Path(__file__).parents[1] / "media_recipe"
PHOTO, CLIP = ("read_photo", "see"), ("read_clip", "hear")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return built(FOLDER / "optional.yaml", tmp_path_factory.mktemp("optional-media"))


@pytest.fixture(scope="module")
def server(outcome: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(outcome, tmp_path_factory.mktemp("log")) as running:
        yield running


@pytest.fixture
def runner(server: Server) -> Iterator[GrpcRunner]:
    with server.runner("optional_media") as opened:
        yield opened


@pytest.fixture(scope="module")
def sent() -> dict[str, np.ndarray]:
    """Three rows of what clients send, with captions of one length."""
    samples = resolve_callable("data.py:samples", FOLDER, error=DataError)(9, 3)
    rows = [{**row, "caption": b"a cat sees an owl"} for row in samples]
    return {name: np.array([[row[name]] for row in rows], dtype=object) for name in rows[0]}


def executions(server: Server, *names: str) -> dict[str, int]:
    return counted(server, "optional_media", names or (*PHOTO, *CLIP))


def test_every_subset_is_judged_and_what_is_published_is_whole(outcome: Outcome) -> None:
    assert outcome.report.verdict is Verdict.PASS
    names = {check.name for gate in outcome.report.gates for check in gate.checks}
    for label in ("without photo", "without photo and clip"):
        assert f"end to end.probabilities: worst cosine ({label})" in names
    assert outcome.report.published is not None
    assert [finding for finding in lint(outcome.report.published) if finding.severity == "error"] == []


def test_a_file_that_is_missing_is_neither_decoded_nor_encoded(
    server: Server, runner: GrpcRunner, sent: dict[str, np.ndarray]
) -> None:
    before = executions(server)
    runner.infer({name: array for name, array in sent.items() if name != "photo"})
    runner.infer({"caption": sent["caption"], "photo": np.full((3, 1), b"", dtype=object)})
    after = executions(server)
    assert [after[name] - before[name] for name in PHOTO] == [0, 0]
    assert [after[name] - before[name] for name in CLIP] == [1, 1]


def test_rows_with_and_without_a_file_share_a_request(runner: GrpcRunner, sent: dict[str, np.ndarray]) -> None:
    whole = runner.infer(sent)["probabilities"]
    blind = runner.infer({name: array for name, array in sent.items() if name != "photo"})["probabilities"]
    some = sent["photo"].copy()
    some[1, 0] = b""
    expected = np.where([[True], [False], [True]], whole, blind)
    np.testing.assert_allclose(runner.infer({**sent, "photo": some})["probabilities"], expected, rtol=1e-5)
    marked = {**sent, "photo": some, "photo_present": np.array([[True], [False], [True]])}
    np.testing.assert_allclose(runner.infer(marked)["probabilities"], expected, rtol=1e-5)
    assert not np.allclose(whole, blind, atol=1e-3)


def test_captions_of_many_lengths_are_padded_and_answered_as_alone(server: Server, sent: dict[str, np.ndarray]) -> None:
    def answer(words: int) -> list[list[float]]:
        caption = np.array([[b" ".join(([b"a", b"cat"] * 4)[:words])]], dtype=object)
        with server.runner("optional_media") as opened:
            return opened.infer({"photo": sent["photo"][:1], "caption": caption})["unit"].tolist()

    alone = [answer(words) for words in range(1, 9)]
    before = executions(server, "fusion", "pad-tokens")
    with ThreadPoolExecutor(8) as pool:
        np.testing.assert_allclose([*pool.map(answer, range(1, 9))], alone, rtol=1e-5)
    after = executions(server, "fusion", "pad-tokens")
    assert after["pad-tokens"] - before["pad-tokens"] == 8
    assert after["fusion"] - before["fusion"] < 8, "captions of unlike lengths were run as one"


def test_a_bad_file_is_told_by_its_row_in_the_request(runner: GrpcRunner, sent: dict[str, np.ndarray]) -> None:
    some = sent["clip"].copy()
    some[0, 0], some[2, 0] = b"", b"no sound"
    with pytest.raises(InferenceError, match="'clip', row 2: is no sound that is taken"):
        runner.infer({**sent, "clip": some})
    assert runner.infer(sent)["labels"].shape == (3, 2)


@pytest.mark.parametrize(("name", "bad"), [("photo", "black"), ("photo", "damaged"), ("clip", "silence")])
def test_a_file_in_which_nothing_is_runs_no_encoder(
    server: Server, runner: GrpcRunner, sent: dict[str, np.ndarray], name: str, bad: str
) -> None:
    file = (
        b"\x89PNG\r\n\x1a\n, and no picture"
        if bad == "damaged"
        else resolve_callable(f"data.py:{bad}", FOLDER, error=DataError)()
    )
    steps, encoder = PHOTO if name == "photo" else CLIP
    without = runner.infer({key: array for key, array in sent.items() if key != name})["probabilities"]
    before = executions(server)
    answered = runner.infer({**sent, name: np.array([[file]] * 3, dtype=object)})["probabilities"]
    after = executions(server)
    np.testing.assert_array_equal(answered, without)
    assert after[encoder] == before[encoder]
    assert after[steps] - before[steps] == (4 if bad == "damaged" else 1)  # a bad row is looked for among all


def by_hand(outcome: Outcome, sent: dict[str, np.ndarray], there: dict[str, list[bool]]) -> np.ndarray:
    """Return the probabilities that the PyTorch model gives, with the release's stand-ins where a file is missing."""
    import torch

    recipe = mmdeploy.load_recipe(FOLDER / "optional.yaml")
    steps = Pipeline.from_json([recipe.preprocess[name].described() for name in in_order(recipe.preprocess)], FOLDER)
    model = resolve_callable("model.py:build", FOLDER, error=DataError)().eval()
    assert outcome.report.published is not None
    (release,) = resolve(outcome.report.published)
    answers = []
    with np.load(release / "optional_media_modalities/1/stand_ins.npz") as stand_ins, torch.inference_mode():
        for row in range(len(sent["caption"])):
            made = steps.sample({name: array[row] for name, array in sent.items()})
            tensors = {name: torch.from_numpy(array)[None] for name, array in made.items() if name not in sent}
            seen, heard = model.see(tensors["image"]), model.hear(tensors["sound"])
            seen = seen if there["photo"][row] else torch.from_numpy(stand_ins["seen"])[None]
            heard = heard if there["clip"][row] else torch.from_numpy(stand_ins["heard"])[None]
            logits, _ = model.fusion(seen, heard, tensors["ids"], tensors["mask"], tensors["counts"])
            answers.append(torch.softmax(logits, -1)[0].numpy())
    return np.stack(answers)


def test_files_in_which_nothing_is_are_answered_as_the_original_does(
    outcome: Outcome, runner: GrpcRunner, sent: dict[str, np.ndarray]
) -> None:
    """A batch with a black picture, a damaged one and a silent clip: PyTorch is given stand-ins in the same rows."""
    black, silence = (resolve_callable(f"data.py:{name}", FOLDER, error=DataError)() for name in ("black", "silence"))
    photo, clip = sent["photo"].copy(), sent["clip"].copy()
    photo[0, 0], photo[2, 0], clip[1, 0] = black, photo[2, 0][:50], silence
    expected = by_hand(outcome, sent, {"photo": [False, True, False], "clip": [True, False, True]})
    mixed = runner.infer({**sent, "photo": photo, "clip": clip})
    np.testing.assert_allclose(mixed["probabilities"], expected, atol=1e-5)


def test_a_photo_that_is_sent_twice_is_encoded_once_whoever_else_is_in_the_request(
    outcome: Outcome, sent: dict[str, np.ndarray], tmp_path: Path
) -> None:
    assert outcome.report.published is not None
    repositories = resolve(outcome.report.published.parent)
    settings = settings_of(repositories)
    assert settings.models == ("optional_media.see",)

    def seen(running: Server) -> list[int]:
        (stats,) = settled(lambda: ask_json(f"{running.http_url}/v2/models/optional_media.see/stats")["model_stats"])
        return [int(stats["inference_stats"][what].get("count", 0)) for what in ("cache_hit", "cache_miss")]

    with (
        triton_server.start(repositories, log=tmp_path / "t.log", response_cache_bytes=settings.bytes) as running,
        running.runner("optional_media") as opened,
    ):
        first, other = ({name: array[index : index + 1] for name, array in sent.items()} for index in (0, 1))
        hits, misses = seen(running)
        answers = [
            opened.infer(feed)["probabilities"].copy()
            for feed in (other, {**other, "clip": first["clip"]}, other)  # the second decodes and asks anew
        ]
        assert seen(running) == [hits + 2, misses + 1]
        np.testing.assert_array_equal(answers[0], answers[2])
        blind = opened.infer({**other, "photo": np.array([[b""]], dtype=object)})["probabilities"]
        assert seen(running) == [hits + 2, misses + 1]
        assert not np.allclose(blind, answers[0], atol=1e-3)


@pytest.fixture(scope="module")
def asked_by_http(outcome: Outcome, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    assert outcome.report.published is not None
    beside = ("--url", server.grpc_url, "--http-url", server.http_url)
    folder = tmp_path_factory.mktemp("gateway")
    with gateway(outcome.report.published.resolve(), *beside, folder=folder) as running:
        yield running


def test_a_gateway_takes_files_and_text_and_names_the_classes(
    asked_by_http: Served, runner: GrpcRunner, sent: dict[str, np.ndarray]
) -> None:
    row = {name: array[0, 0] for name, array in sent.items() if name != "clip"}
    expected = runner.infer({name: array[:1] for name, array in sent.items() if name != "clip"})
    encoded = {"base64": base64.b64encode(row["photo"]).decode()}
    with asked_by_http.client() as client:
        files = {"photo": ("photo.png", row["photo"]), "caption": (None, row["caption"]), "clip": ("", b"")}
        as_form = client.post("/infer", files=files)
        as_json = client.post("/infer", json={"inputs": {"photo": encoded, "caption": row["caption"].decode()}})
    for response in (as_form, as_json):
        assert response.status_code == 200, response.text
        told = response.json()
        assert told["outputs"]["probabilities"] == expected["probabilities"][0].tolist()
        assert told["modalities"] == {"used": ["photo", "caption"], "missing": ["clip"]}
        labels = [one.decode() for one in expected["labels"][0]]
        assert [one["label"] for one in told["top"]["labels"]] == labels
        assert [one["label"] for one in told["top"]["probabilities"]][:2] == labels
        assert told["top"]["labels"][0]["share"] == pytest.approx(expected["probabilities"][0].max())


def test_a_gateway_marks_the_rows_of_a_batch_that_lack_an_input(
    asked_by_http: Served, runner: GrpcRunner, sent: dict[str, np.ndarray]
) -> None:
    lacking = {0: ("photo",), 1: ("clip",), 2: ()}
    parts = {
        f"{name}[{at}]": ("file" if name != "caption" else None, array[at, 0])
        for at, left_out in lacking.items()
        for name, array in sent.items()
        if name not in left_out
    }
    marks = {f"{name}_present": np.array([[name not in lacking[at]] for at in range(3)]) for name in ("photo", "clip")}
    expected = runner.infer({**sent, **marks})["probabilities"]
    with asked_by_http.client() as client:
        rows = client.post("/batch", files=parts).json()["rows"]
        metrics = client.get("/metrics").text
    assert [row["modalities"]["missing"] for row in rows] == [["photo"], ["clip"], []]
    assert np.allclose([row["outputs"]["probabilities"] for row in rows], expected, atol=1e-5)
    assert 'mmdeploy_gateway_missing_total{missing="clip+photo",model="optional_media"} 1.0' in metrics


def test_a_gateway_passes_on_what_a_step_refuses(asked_by_http: Served, sent: dict[str, np.ndarray]) -> None:
    with asked_by_http.client() as client:
        files = {"clip": ("clip.wav", b"no sound"), "caption": (None, sent["caption"][0, 0])}
        response = client.post("/infer", files=files)
        kinds = {one["name"]: one["kind"] for one in client.get("/models").json()["models"][0]["inputs"]}
    assert response.status_code == 400
    assert error_of(response)["message"].startswith("'clip', row 0: is no sound that is taken")
    assert kinds == {"photo": "image", "clip": "audio", "caption": "text"}


def test_the_page_is_used_in_a_browser(asked_by_http: Served, sent: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Drop a picture, record a sound, type a text: the best classes appear, and an error where one is left out."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium")
    (tmp_path / "photo.png").write_bytes(sent["photo"][0, 0])
    fake = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with playwright.sync_playwright() as driver, driver.chromium.launch(executable_path=chromium, args=fake) as browser:
        page = browser.new_page(viewport={"width": 375, "height": 800})
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(asked_by_http.url)
        page.get_by_label("photo: choose a picture").set_input_files(tmp_path / "photo.png")
        page.get_by_label("caption").fill("a cat sees an owl")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("ol.top")
        assert page.locator(".chips li").all_inner_texts() == ["✓ photo used", "✓ caption used", "– clip missing"]
        classes = page.locator("ol.top .name").all_inner_texts()
        assert set(classes) == {"owl", "cat", "dog"}
        page.get_by_label("Record clip").click()
        page.wait_for_timeout(700)  # a moment of sound
        page.get_by_label("Record clip").filter(has_text="Stop").click()
        page.wait_for_selector("audio")
        page.get_by_role("button", name="Ask").click()
        page.wait_for_selector("text=✓ clip used")
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        assert said == []
        page.get_by_role("button", name="Clear").click()
        page.get_by_label("photo: choose a picture").set_input_files(tmp_path / "photo.png")
        page.get_by_role("button", name="Ask").click()
        playwright.expect(page.get_by_role("alert")).to_contain_text("caption is missing", timeout=60_000)
        unlabelled = (
            "Array.from(document.querySelectorAll('input, textarea, select')).filter(one => one.offsetParent && "
        )
        assert page.evaluate(unlabelled + "!one.labels?.length && !one.ariaLabel).length") == 0
        assert {url.split("/")[2] for url in asked if not url.startswith(("data:", "blob:"))} == {
            asked_by_http.url.removeprefix("http://")
        }
        page.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {textContent: 'hacked = 1'}))"
        )
        assert page.evaluate("typeof hacked") == "undefined"
