"""A CLIP checkpoint of ``transformers`` with a LoRA adapter of PEFT, sent files and sentences.

It is held against transformers' own processor and the model with the adapter beside it, not merged.
"""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from settled_counts import settled
from whole_recipe import built, served

import mmdeploy
from mmdeploy.building.provenance import PROVENANCE
from mmdeploy.caching.plan import make_plan, verify_plan
from mmdeploy.caching.trace import Content, Request, write_trace
from mmdeploy.caching.zipf import Popularity, zipf_trace
from mmdeploy.core.artifact import file_sha256
from mmdeploy.triton.http import ask_json

pytestmark = [pytest.mark.triton, pytest.mark.slow]
WORDS = tuple("a photo of the small green cat and two old dogs near red water under trees".split())  # noqa: SIM905


def own_tokenizer():
    """Return a tokenizer of CLIP's kind that knows some words as a whole, and letters."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary, merges = dict.fromkeys([*letters, *(f"{letter}</w>" for letter in letters)]), {}
    for word in WORDS:
        *parts, last = word
        parts.append(f"{last}</w>")
        while len(parts) > 1:
            merges[(parts[0], parts[1])] = None
            parts = [parts[0] + parts[1], *parts[2:]]
            vocabulary[parts[0]] = None
    names = [*vocabulary, "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizerFast(vocab={name: index for index, name in enumerate(names)}, merges=list(merges))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The recipe's folder with a checkpoint of random weights and an adapter, its processor, and the model of both."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    folder = tmp_path_factory.mktemp("clip") / "recipe"
    shutil.copytree(Path(__file__).parents[1] / "clip_recipe", folder)
    tokenizer = own_tokenizer()
    last = len(tokenizer) - 1
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"vocab_size": last + 1, "max_position_embeddings": 77, "eos_token_id": last, "bos_token_id": last - 1}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config=small | text, vision_config=small | {"image_size": 32, "patch_size": 8}, projection_dim=32
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # as initialised, the text hardly changes the answer
                parameter.normal_(0, 0.15)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = CLIPProcessor(images, tokenizer)
    model.save_pretrained(folder / "checkpoint")
    processor.save_pretrained(folder / "checkpoint")
    assert (folder / "checkpoint" / "tokenizer.json").is_file()
    targets = ["q_proj", "v_proj", "fc1", "visual_projection"]
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=targets, modules_to_save=["text_projection"])
    adapted = get_peft_model(model, lora).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(0, 0.15)
    adapted.save_pretrained(folder / "lora")
    return folder, processor, adapted


def photo(seed: int, form: str) -> bytes:
    from PIL import Image

    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (4, 7, 3), dtype=np.uint8))
    written = io.BytesIO()
    coarse.resize(tuple(map(int, random.integers(20, 120, 2))), Image.Resampling.BICUBIC).save(written, format=form)
    return written.getvalue()


def asked_of_transformers(pair, file: bytes, sentence: str) -> dict[str, np.ndarray]:
    import torch
    from PIL import Image

    _, processor, model = pair
    prepared = processor(
        text=[sentence], images=[Image.open(io.BytesIO(file)).convert("RGB")],
        return_tensors="pt", truncation=True, max_length=77,
    )  # fmt: skip
    with torch.inference_mode():
        found = model(**prepared)
    return {
        "similarity": found.logits_per_image.numpy(),
        "image_embedding": found.image_embeds.numpy(),
        "text_embedding": found.text_embeds.numpy(),
    }


def test_files_and_sentences_are_answered_as_by_transformers(pair, tmp_path):
    folder, _, _ = pair
    outcome = built(folder / "recipe.yaml", tmp_path, ["model.adapters={clip: lora}"])
    assert outcome.report.published is not None
    made_of = json.loads((outcome.report.published / PROVENANCE).read_text())["predicate"]["buildDefinition"]
    found = {one["uri"]: one["digest"]["sha256"] for one in made_of["resolvedDependencies"] if "digest" in one}
    for name in ("checkpoint/model.safetensors", "lora/adapter_model.safetensors", "lora/adapter_config.json"):
        assert found[name] == file_sha256(folder / name)
    check_plan(folder, outcome.report.published, tmp_path)
    sentences = ["", "cat", "a photo of the small green cat", "zebra, naïve: 42!", " ".join(WORDS * 6)]
    with served(outcome, tmp_path) as running:
        runner = running.runner("clip_pair")

        def ask(file: bytes, sentence: str) -> dict[str, np.ndarray]:
            given = {"photo": file, "caption": sentence.encode()}
            return runner.infer({name: np.array([[value]], dtype=object) for name, value in given.items()})

        for seed, sentence in enumerate(sentences):
            file = photo(seed, ("PNG", "JPEG", "WEBP", "JPEG", "PNG")[seed])
            answered, expected = ask(file, sentence), asked_of_transformers(pair, file, sentence)
            for name, array in expected.items():
                np.testing.assert_allclose(answered[name], array, atol=2e-5, err_msg=f"{name} of {sentence!r}")
        kept = {model: hits(running, model) for model in ("clip_pair.image", "clip_pair.text")}
        file = photo(0, "PNG")
        np.testing.assert_allclose(
            ask(file, "two dogs")["similarity"], asked_of_transformers(pair, file, "two dogs")["similarity"], atol=2e-5
        )
        assert hits(running, "clip_pair.image") - kept["clip_pair.image"] == 1  # the photo was seen before
        assert hits(running, "clip_pair.text") == kept["clip_pair.text"]
        runner.close()


def check_plan(folder: Path, release: Path, beside: Path) -> None:
    """Plan the cache of the pair for a trace that names files, and hold it against a real Triton."""
    for number in range(6):
        (beside / f"{number}.bin").write_bytes(photo(number, "JPEG"))
        (beside / f"{number}.txt").write_text(" ".join(WORDS[number : number + 3]), encoding="utf-8")
    drawn = zipf_trace({"photo": Popularity(6), "caption": Popularity(6, exponent=0.2)}, 60, seed=4)

    def named(rows, ending: str):
        return tuple(Content("file", f"{one.value.rpartition('-')[2]}.{ending}") for one in rows)

    trace = [
        Request(
            one.time_s, {"photo": named(one.inputs["photo"], "bin"), "caption": named(one.inputs["caption"], "txt")}
        )
        for one in drawn
    ]
    write_trace(beside / "requests.jsonl", trace)
    recipe = mmdeploy.load_recipe(folder / "recipe.yaml")
    plan = make_plan(recipe, beside / "requests.jsonl", release=release, row_bytes={}, max_mib=8)
    assert plan.potentials["image"].model.reads == ("photo",)
    assert plan.potentials["text"].model.reads == ("caption",)
    found = verify_plan(recipe, plan, beside / "requests.jsonl", release, log=beside / "plan.log")
    assert {one.model for one in found.models} == {"image", "text"}
    assert found.agrees, found
    assert all(one.measured == 54 / 60 for one in found.models)


def hits(running, model: str) -> int:
    def read() -> int:
        (stats,) = ask_json(f"{running.http_url}/v2/models/{model}/stats")["model_stats"]
        return int(stats["inference_stats"]["cache_hit"]["count"])

    return settled(read)
