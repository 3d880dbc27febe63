"""A recipe of a checkpoint: its exported components answer as `transformers` does, to what its own processor gives."""

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pretrained_checkpoints import FAMILIES, SMALL, draw
from recorded_sets import set_artifact

from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.errors import EXIT_USAGE, DataError, UsageError
from mmdeploy.core.sessions import open_session
from mmdeploy.model.sources import resolve_callable
from mmdeploy.model.torch_model import call_module, load_model, submodule
from mmdeploy.planning.steps import DATA_SETS, Step
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.scaffold.files import write_files
from mmdeploy.scaffold.pretrained import Asked, Proposed, propose
from mmdeploy.worker import run_step
from mmdeploy.worker.task import Task

#: What is exported of each family: of what two families share, one.
EXPORTED = {"siglip": "text", "clap": "audio", "bert": "encoder", "vit": "encoder", "wav2vec2": "encoder"}
#: Sounds as long as those that are asked.
SHORTER = ("sizes.samples.max=48000",)


def proposed(family: str, folder: Path) -> Proposed:
    """Save a checkpoint, have its recipe written, and put files into its folder of samples."""
    FAMILIES[family](folder / "checkpoint")
    found = propose(Asked(folder / "checkpoint", folder / "recipe/recipe.yaml", family))
    write_files(found.texts, force=False)
    readers = [part.reader for part in found.form.parts if part.reader is not None]
    found.samples.mkdir()
    endings = {"image": "png", "audio": "wav", "text": "txt"}
    for reader in readers:
        for number, sample in enumerate(reader.samples()):
            (found.samples / f"{number}.{endings[reader.kind]}").write_bytes(sample)
    return found


def exported(folder: Path, family: str, component: str) -> Artifact:
    """Export a component as a build does, with real samples."""
    recipe = load_recipe(folder / "recipe/recipe.yaml", SHORTER if family == "wav2vec2" else ())
    sets = {DATA_SETS["calibration"]: set_artifact(recipe, "calibration", folder / "sets")}
    place = folder / component
    place.mkdir()
    step = Step(f"{component}/export", component, "export", "onnx", {"method": "onnx"}, (), {})
    return run_step._run(Task(step, recipe, place, sets, 1), place, lambda *_: None)


def answers_of_transformers(found: Proposed, folder: Path) -> Iterator[tuple[dict[str, np.ndarray], Any]]:
    """Ask the model that was saved, on what its own processor makes of a sample of each kind."""
    import torch

    model = type(found.form.served).from_pretrained(folder / "checkpoint", local_files_only=True).eval()
    readers = [part.reader for part in found.form.parts if part.reader is not None]
    for samples in zip(*(reader.samples() for reader in readers), strict=False):
        feeds: dict[str, np.ndarray] = {}
        for reader, sample in zip(readers, samples, strict=True):
            feeds |= reader.feeds(sample)
        with torch.inference_mode():
            yield feeds, model(**{name: torch.from_numpy(array) for name, array in feeds.items()})


@pytest.mark.parametrize("family", FAMILIES)
def test_components_answer_as_transformers(family, tmp_path):
    import torch

    found = proposed(family, tmp_path)
    recipe = load_recipe(tmp_path / "recipe/recipe.yaml")
    model = load_model(
        recipe.model.factory, root=recipe.root, weights=recipe.model.weights, prefix=recipe.model.prefix or {}
    )
    session = None
    if component := EXPORTED.get(family):
        session = open_session(exported(tmp_path, family, component).path, {"intra_op_thread_count": "1"})
    asked = [*answers_of_transformers(found, tmp_path)]
    assert len(asked) >= 3
    for (feeds, answer), part in itertools.product(asked, found.form.parts):
        if part.reader is None:
            continue
        given = {name: feeds[name] for name in part.reads}
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(array) for name, array in given.items()}
            answers = call_module(submodule(model, part.name), tensors, [*part.writes], name=part.name)
        compare({name: one.numpy() for name, one in answers.items()}, answer, found.form.asked[part.name])
        if session is not None and part.name == component:
            outputs = dict(zip(part.writes, session.run([*part.writes], given), strict=True))
            compare(outputs, answer, found.form.asked[part.name])


def compare(given: Mapping[str, np.ndarray], answer: Any, asked: Mapping[str, str]) -> None:
    for name, original in asked.items():
        wanted = answer[original].numpy()
        assert given[name].shape == wanted.shape, name
        cosine = (given[name] * wanted).sum() / np.linalg.norm(given[name]) / np.linalg.norm(wanted)
        assert cosine >= 0.9999, name
        np.testing.assert_allclose(given[name], wanted, atol=2e-4, err_msg=name)


def test_a_processor_that_no_step_equals_runs_in_the_data_file(tmp_path):
    FAMILIES["clip"](tmp_path / "checkpoint")
    path = tmp_path / "checkpoint/preprocessor_config.json"
    limits = {"shortest_edge": 32, "longest_edge": 36}  # of a long picture the shorter side is less than 32
    path.write_text(json.dumps(json.loads(path.read_text()) | {"size": limits}))
    found = propose(Asked(tmp_path / "checkpoint", tmp_path / "recipe/recipe.yaml", "clip"))
    write_files(found.texts, force=False)
    recipe = load_recipe(tmp_path / "recipe/recipe.yaml")
    assert recipe.inputs["pixel_values"].shape == (3, 32, 32)
    assert [*recipe.preprocess] == ["read_text"]
    reader = found.form.parts[0].reader
    assert reader is not None
    found.samples.mkdir()
    for number, sample in enumerate(reader.samples()):
        (found.samples / f"{number}.png").write_bytes(sample)
        (found.samples / f"{number}.txt").write_text("a cat")
    given = [*resolve_callable("data.py:samples", recipe.root, error=DataError)()]
    assert [one["text"] for one in given] == ["a cat"] * 3
    for one, sample in zip(given, reader.samples(), strict=True):
        np.testing.assert_array_equal(one["pixel_values"], reader.feeds(sample)["pixel_values"][0])


def test_the_command_writes_what_validates_and_says_what_is_to_be_put_where(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    FAMILIES["vit"](tmp_path / "tiny-vit")
    assert run(commands, ["init", "--pretrained", "tiny-vit"]) == 0
    told = capsys.readouterr().out
    assert "put your files into tiny_vit_recipe/samples/" in told and "decode_image" in told
    recipe = load_recipe(tmp_path / "tiny_vit_recipe/recipe.yaml")
    assert recipe.name == "tiny_vit" and recipe.model.weights is None
    with pytest.raises(FileNotFoundError, match=r"0 of your samples are in .*samples, at least 2 must be: put there"):
        [*resolve_callable("data.py:evaluation", recipe.root, error=DataError)()]
    assert run(commands, ["init", "--pretrained", "tiny-vit"]) == EXIT_USAGE
    assert "--force writes over it" in capsys.readouterr().err
    assert run(commands, ["init", "model.py:build", "--pretrained", "tiny-vit"]) == EXIT_USAGE
    assert "takes no MODEL" in capsys.readouterr().err


def heads():
    from transformers import (
        BertConfig,
        BertForQuestionAnswering,
        Wav2Vec2Config,
        Wav2Vec2ForXVector,
        YolosConfig,
        YolosForObjectDetection,
    )

    sound = {"conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    vectors = {"tdnn_dim": (16, 16, 16, 16, 24), "xvector_output_dim": 16}
    boxes = YolosConfig(**SMALL, image_size=[32, 32], patch_size=8, num_detection_tokens=5)
    return {
        "bert": (BertForQuestionAnswering(BertConfig(**SMALL, vocab_size=128)), ["last_hidden_state"]),
        "wav2vec2": (Wav2Vec2ForXVector(Wav2Vec2Config(**SMALL, **sound, **vectors)), ["logits", "embeddings"]),
        "vit": (YolosForObjectDetection(boxes), ["logits", "pred_boxes"]),
    }


def test_what_a_head_answers_is_served_or_it_is_said_that_it_is_left_out(tmp_path):
    for family, (model, wanted) in heads().items():
        folder = tmp_path / family
        FAMILIES[family](folder)  # for its processor
        draw(model).save_pretrained(folder)
        found = propose(Asked(folder, tmp_path / "recipe/recipe.yaml", "model"))
        (part,) = found.form.parts
        assert [*part.writes] == wanted, family
        assert bool(found.form.notes) == (family == "bert")
    text = found.texts[tmp_path / "recipe/model.py"]
    assert 'return {"logits": answer.logits, "pred_boxes": answer.pred_boxes}' in text


def test_what_draws_at_random_is_of_another_form(tmp_path):
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    decoder = {f"decoder_{name}": size for name, size in SMALL.items()}
    FAMILIES["vit"](tmp_path / "mae")
    model = ViTMAEForPreTraining(ViTMAEConfig(**SMALL, **decoder, image_size=32, patch_size=8))
    draw(model).save_pretrained(tmp_path / "mae")
    with pytest.raises(UsageError, match="answers differently each time"):
        propose(Asked(tmp_path / "mae", tmp_path / "recipe/recipe.yaml", "mae"))
