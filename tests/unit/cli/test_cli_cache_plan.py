"""``mmdeploy cache-plan``: the table, and what is refused. What a real Triton says to it is tested with one."""

import json
from pathlib import Path

import pytest
from recipe_samples import SAMPLE, write_sample_files

from mmdeploy.caching.trace import write_trace
from mmdeploy.caching.zipf import Popularity, zipf_trace
from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sample recipe, its answers' shapes declared, and a trace of it."""
    monkeypatch.chdir(tmp_path)
    write_sample_files(tmp_path)
    declared = "{{embedding: {{tensor: {0}_embedding, dtype: FP32, shape: [512]}}}}"
    text = SAMPLE
    for name in ("image", "audio"):
        text = text.replace(f"{{embedding: {name}_embedding}}", declared.format(name))
    (tmp_path / "recipe.yaml").write_text(text)
    popular = {"image": Popularity(30), "audio": Popularity(3000, exponent=0.0)}
    write_trace(tmp_path / "requests.jsonl", zipf_trace(popular, 300, seed=2))
    return tmp_path


def plan(*options: str) -> int:
    return run(commands, ["cache-plan", "recipe.yaml", "--trace", "requests.jsonl", *options])


def test_the_encoder_that_is_asked_the_same_again_is_advised(folder, capsys):
    assert plan() == 0
    told = capsys.readouterr().out
    assert told.startswith("300 requests in ")
    assert "Advised: cache image_encoder in 1 MiB." in told
    assert "  components.image_encoder.serving.response_cache: true" in told
    assert "audio_encoder.serving" not in told
    assert "every component counts alike, for there is no build" in told


def test_json_has_the_popular_contents_with_their_worth(folder, capsys):
    assert plan("--json", "--half-life", "5") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["advice"]["cached"] == ["image_encoder"]
    assert told["half_life_s"] == 5
    image = told["models"]["image_encoder"]
    values = [one["value_ms"] for one in image["popular"]]
    assert values == sorted(values, reverse=True)
    assert set(image["popular"][0]["inputs"]) == {"image"}
    assert told["verified"] is None
    assert sum(told["advice"]["together"].values()) == 300


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--verify",), "--verify serves the release model_repository/spoken, and it is not there"),
        (("--half-life", "0"), "--half-life 0: a half-life is longer than 0 s"),
        (("--answer-bytes", "image_encoder"), "--answer-bytes 'image_encoder' is not COMPONENT=BYTES"),
        (("--answer-bytes", "image_encode=7"), "no model of the recipe; did you mean 'image_encoder'"),
        (("--max-mib", "0"), "--max-mib"),
        (("--set", "components.image_encoder.outputs.embedding=image_embedding"),
         "the size of an answer of 'image_encoder' is not known"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_a_usage_error(folder, capsys, options, told):
    assert plan(*options) == 2
    assert told in capsys.readouterr().err


def test_an_answer_whose_size_varies_is_told(folder, capsys):
    loose = ("--set", "components.image_encoder.outputs.embedding=image_embedding")
    assert plan(*loose, "--answer-bytes", "image_encoder=2048") == 0
    assert "Advised: cache image_encoder" in capsys.readouterr().out
