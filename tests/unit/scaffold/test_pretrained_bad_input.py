"""Checkpoints that cannot be taken: one error each, that says what is accepted and what to do."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from pretrained_checkpoints import SMALL, bert, draw, save_tokenizer

from mmdeploy.core.errors import EXIT_ENVIRONMENT, EXIT_USAGE, EnvironmentUnfitError, UsageError
from mmdeploy.scaffold.pretrained import Asked, propose


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "bert"
    bert(folder)
    return folder


@pytest.fixture
def checkpoint(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bert"))


def refusal(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        propose(Asked(folder, folder.parent / "recipe/recipe.yaml", "model"))
    assert caught.value.exit_code == EXIT_USAGE
    assert caught.value.hint
    return f"{caught.value.message}; {caught.value.hint}"


def change(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_folder_that_is_not_there(checkpoint):
    told = refusal(checkpoint.parent / "brt")
    assert "there is no such folder" in told and "did you mean 'bert'" in told and "hf download" in told


def test_a_folder_without_config(checkpoint):
    (checkpoint / "config.json").unlink()
    told = refusal(checkpoint)
    assert "there is no config.json" in told and "model.safetensors" in told and "mmdeploy init model.py:build" in told


@pytest.mark.parametrize(("text", "wanted"), [("{", "is no JSON"), ("[]", "model_type"), ('{"a": 1}', "model_type")])
def test_a_config_of_something_else(checkpoint, text, wanted):
    (checkpoint / "config.json").write_text(text)
    assert wanted in refusal(checkpoint)


def test_weights_that_are_missing(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    assert "the weights are missing" in refusal(checkpoint)
    (checkpoint / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    told = refusal(checkpoint)
    assert "pickle (pytorch_model.bin)" in told and "can run any code" in told and "save_pretrained" in told


def test_weights_that_are_cut_off(checkpoint):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    assert "transformers cannot load it" in refusal(checkpoint)


def test_weights_without_some_tensors(checkpoint):
    from safetensors.torch import load_file, save_file

    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    save_file({name: one for name, one in tensors.items() if "layer.1." not in name}, path, {"format": "pt"})
    told = refusal(checkpoint)
    assert "weights of BertModel are missing: encoder.layer.1." in told and "at random" in told


def test_a_pooler_that_was_never_trained_is_left_out(checkpoint):
    from safetensors.torch import load_file, save_file

    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    save_file({name: one for name, one in tensors.items() if "pooler" not in name}, path, {"format": "pt"})
    (part,) = propose(Asked(checkpoint, checkpoint.parent / "recipe/recipe.yaml", "model")).form.parts
    assert [*part.writes] == ["last_hidden_state"]


def test_code_that_comes_with_the_checkpoint_is_not_run(checkpoint):
    (checkpoint / "mine.py").write_text("raise SystemExit('run')")
    change(checkpoint, architectures=["Mine"], auto_map={"AutoModel": "mine.Mine"})
    told = refusal(checkpoint)
    assert "trust_remote_code" in told and "not run" in told and "mmdeploy init model.py:build" in told


def test_an_architecture_that_nobody_knows(checkpoint):
    change(checkpoint, architectures=["BrandNewModel"])
    assert "has no BrandNewModel" in refusal(checkpoint)


def test_weights_that_were_quantized_already(checkpoint):
    change(checkpoint, quantization_config={"quant_method": "gptq", "bits": 4})
    assert "quantized already" in refusal(checkpoint)


def test_a_processor_that_is_missing(checkpoint):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).unlink()
    told = refusal(checkpoint)
    assert "there is no tokenizer" in told and "tokenizer.json" in told


def test_models_of_another_form(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

    tiny = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=128, n_positions=16, bos_token_id=2, eos_token_id=3)
    small = T5Config(d_model=32, d_ff=32, num_layers=1, num_heads=2, d_kv=16, vocab_size=128)
    for name, model in (("gpt", GPT2LMHeadModel(tiny)), ("t5", T5ForConditionalGeneration(small))):
        draw(model).save_pretrained(tmp_path / name)
        save_tokenizer(tmp_path / name)
        told = refusal(tmp_path / name)
        assert "generates token by token" in told and "CLIP, SigLIP, CLAP" in told
        assert "mmdeploy init model.py:build" in told


def test_a_model_that_reads_two_things_at_once(tmp_path):
    from transformers import ViltConfig, ViltModel

    draw(ViltModel(ViltConfig(**SMALL, vocab_size=128, image_size=32, patch_size=8))).save_pretrained(tmp_path / "vilt")
    save_tokenizer(tmp_path / "vilt")
    assert "ViltModel reads pixel_values and input_ids" in refusal(tmp_path / "vilt")


def test_without_transformers_the_environment_is_unfit(checkpoint, monkeypatch):
    for name in ("transformers", "transformers.utils"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EnvironmentUnfitError) as caught:
        propose(Asked(checkpoint, checkpoint.parent / "recipe/recipe.yaml", "model"))
    assert caught.value.exit_code == EXIT_ENVIRONMENT
    assert caught.value.hint == "pip install transformers"
