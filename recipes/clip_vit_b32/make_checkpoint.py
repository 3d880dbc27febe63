"""Write a checkpoint folder in the format of openai/clip-vit-base-patch32, with `transformers`.

    python recipes/clip_vit_b32/make_checkpoint.py small     # trains `small` and the adapter `lora`: some minutes
    python recipes/clip_vit_b32/make_checkpoint.py random    # `checkpoint`: ViT-B/32 with random weights, for speed

`small` is a CLIP of 0.2 million parameters that learns drawn shapes and what they are called, by CLIP's loss, from 42
of the 48 pairs of colour and shape. Then a LoRA adapter learns outlines, which it never saw. Both are committed.

`random` has the sizes of ViT-B/32 and weights that are drawn: how fast it is does not depend on them, what it answers
means nothing. Its tokenizer knows the words of `data.py` and letters, in CLIP's format. The real checkpoint is fetched
by the command that recipe.yaml names under `needs`.

Needs transformers, PEFT and Pillow.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from data import CLASSES, COLOURS, SHAPES, SPLITS, UNSEEN, drawn, samples
from model import CHECKPOINT, SMALL, Classifier
from numpy.random import RandomState
from peft import LoraConfig, get_peft_model
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast

from mmdeploy.preprocess import DecodeImage, Tokenize

LORA = SMALL.with_name("lora")
PROMPTS = ("a photo of a {}", "a picture of one {}", "{}", "this is a {}")
SIDE, LENGTH = 32, 16  # as in variants/small.yaml
PER_CLASS, STEPS, PEAK_LEARNING_RATE = 150, 3000, 2e-3
ADAPTER_STEPS, ADAPTER_RATE = 1000, 3e-3


def tokenizer() -> CLIPTokenizerFast:
    """Return a tokenizer of CLIP's kind: lower case, byte pairs that end in ``</w>``; each known word is one token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*COLOURS, *SHAPES, *sorted({word for one in PROMPTS for word in one.split() if word != "{}"})]
    vocabulary, merges = dict.fromkeys([*letters, *(f"{letter}</w>" for letter in letters)]), {}
    for word in words:
        *parts, last = word
        parts.append(f"{last}</w>")
        while len(parts) > 1:
            merges[(parts[0], parts[1])] = None
            parts = [parts[0] + parts[1], *parts[2:]]
            vocabulary[parts[0]] = None
    names = [*vocabulary, "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizerFast(
        vocab={name: index for index, name in enumerate(names)}, merges=list(merges), model_max_length=77
    )


def processor(side: int) -> CLIPProcessor:
    """Return CLIP's processor of pictures of a size, with the tokenizer."""
    images = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return CLIPProcessor(images, tokenizer())


def save(model: CLIPModel, side: int, folder: Path) -> None:
    """Write a checkpoint folder whole, in the place of what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    made = processor(side)
    made.image_processor.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)


def random_weights() -> None:
    """Write `checkpoint`.

    Raises:
        SystemExit: If it is there: it may be the real one.
    """
    if CHECKPOINT.exists():
        raise SystemExit(f"{CHECKPOINT} is there already: move it away first")
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig())  # whose defaults are those of ViT-B/32
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.02)
            elif "norm" in name and parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    last = len(tokenizer()) - 1
    model.config.text_config.eos_token_id, model.config.text_config.bos_token_id = last, last - 1
    save(model, 224, CHECKPOINT)


def small_model() -> CLIPModel:
    """Return an untrained CLIP of 0.2 million parameters."""
    last = len(tokenizer()) - 1
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = sizes | {"vocab_size": last + 1, "eos_token_id": last, "bos_token_id": last - 1, "pad_token_id": last}
    vision = sizes | {"num_hidden_layers": 3, "image_size": SIDE, "patch_size": 8}
    torch.manual_seed(7)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))


def pixels_of(files: list[bytes]) -> Tensor:
    """Return what the ensemble's step makes of files: UINT8 [N, 32, 32, 3]."""
    decode = DecodeImage(resize=SIDE, crop=(SIDE, SIDE), interpolation="bicubic", layout="HWC", dtype="UINT8")
    return torch.from_numpy(np.stack([decode.row({"data": file})["pixels"] for file in files]))


def reader() -> Tokenize:
    """Return the ensemble's step that reads lists of texts."""
    step = Tokenize("tokenizer.json", length=LENGTH, several=True)
    step.open(SMALL)
    return step


def trained(model: Classifier, parameters: list[nn.Parameter], steps: int, rate: float, *, outline: bool) -> None:
    """Train by CLIP's loss on batches of one picture of each class, none of `UNSEEN` among them."""
    classes = [name for name in CLASSES if name not in UNSEEN]
    random = RandomState(SPLITS["training"] + 100 * outline)
    pictures = [pixels_of([drawn(name, random, outline=outline) for _ in range(PER_CLASS)]) for name in classes]
    read = reader()
    ids = [read.row({"text": [prompt.format(name) for prompt in PROMPTS]})["ids"] for name in classes]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    pairs, began = torch.arange(len(classes)), time.monotonic()
    for step in range(steps):
        chosen = random.randint(PER_CLASS, size=len(classes))
        images = model.image(torch.stack([of[number] for of, number in zip(pictures, chosen, strict=True)]))
        said = np.stack([of[random.randint(len(PROMPTS))] for of in ids])
        texts = model.text(torch.from_numpy(said)[:, None])[:, 0]
        logits = model.clip.logit_scale.exp().clamp(max=100.0) * images @ texts.T
        loss = 0.5 * (nn.functional.cross_entropy(logits, pairs) + nn.functional.cross_entropy(logits.T, pairs))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 250 == 249:
            print(f"step {step + 1}: loss {loss.item():.3f}, {time.monotonic() - began:.0f} s", flush=True)


@torch.no_grad()
def accuracy(
    model: Classifier, *, outline: bool, classes: tuple[str, ...] = CLASSES, split: str = "evaluation"
) -> float:
    """Return how often the text that fits has the highest score, among 8."""
    feeds, labels = zip(*samples(split, 480, outline=outline, classes=classes), strict=True)
    read = reader()
    ids = torch.from_numpy(np.stack([read.row({"text": feed["labels"]})["ids"] for feed in feeds]))
    scores = model(pixels_of([feed["image"] for feed in feeds]), ids)
    return (scores.argmax(dim=1) == torch.tensor(labels)).float().mean().item()


def told(model: Classifier) -> None:
    """Print the accuracies of README.md."""
    for what, outline, classes in (
        ("filled", False, CLASSES), ("filled, pairs never seen", False, UNSEEN), ("outlines", True, CLASSES),
        ("outlines, pairs never seen", True, UNSEEN),
    ):  # fmt: skip
        print(f"{what}: {100 * accuracy(model, outline=outline, classes=classes):.1f} %", flush=True)


def small() -> None:
    """Train `small`, then `lora` on top of it."""
    torch.set_num_threads(1)
    save(small_model(), SIDE, SMALL)
    model = Classifier(SMALL)
    trained(model, list(model.parameters()), STEPS, PEAK_LEARNING_RATE, outline=False)
    with torch.no_grad():
        for parameter in model.parameters():  # what is written is what is measured, and what an adapter builds on
            parameter.copy_(parameter.half().float())
    told(model)
    save(model.clip.half(), SIDE, SMALL)
    model.clip.float()
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=r"vision_model.*(q_proj|v_proj|fc1|fc2)")
    adapted = get_peft_model(model.clip, lora)
    trained(model, [one for one in model.parameters() if one.requires_grad], ADAPTER_STEPS, ADAPTER_RATE, outline=True)
    told(model)
    shutil.rmtree(LORA, ignore_errors=True)
    adapted.save_pretrained(LORA)
    (LORA / "README.md").unlink(missing_ok=True)  # a form to fill in


def main() -> None:
    """Write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("small", "random"))
    if parser.parse_args().what == "small":
        small()
    else:
        random_weights()


if __name__ == "__main__":
    main()
