"""The recipe's section that says where the trained model comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from mmdeploy.model.sources import REFERENCE_PATTERN
from mmdeploy.recipe.declared import Section

CallableReference = Annotated[str, Field(pattern=REFERENCE_PATTERN)]


class Model(Section):
    """The trained PyTorch model. Building a recipe runs this code."""

    factory: CallableReference = Field(
        description="Callable without arguments that returns the torch.nn.Module: path.py:callable beside "
        "the recipe, or package.module:callable.",
        examples=["model.py:build"],
    )
    weights: Path | None = Field(
        None,
        description="State dict, as .safetensors or as a torch file that loads with weights_only=True: a file, the "
        ".index.json of shards, or a folder in Hugging Face's layout. BF16 and FP16 are computed in FP32. Without it "
        "the factory's own weights are taken.",
        examples=["weights.safetensors", "checkpoint"],
    )
    prefix: dict[str, str | None] = Field(
        default_factory=dict,
        description="Where in the model the tensors of the weights belong: attribute path there by attribute path in "
        'the file, "" for all that no other path is of; null leaves that part of the file out. With "" the rest of the '
        "model stays as the factory made it.",
        examples=[{"": "encoders.text"}, {"": None, "text": "encoders.text"}, {"bert": "", "cls": None}],
    )
    adapters: dict[str, Path] = Field(
        default_factory=dict,
        description="LoRA adapters in PEFT's format that are merged into the model when it is loaded: folder by the "
        'attribute path of the module that it was trained on, "" for the whole model. Merged in this order.',
        examples=[{"": "lora"}, {"encoders.text": "lora_text"}],
    )
    files: tuple[str, ...] | None = Field(
        None,
        description="Globs of files that the factory reads, for those that cannot be seen when it runs. A change to "
        "one of them makes every step that loads the model run again.",
        examples=[["checkpoints/*.bin"]],
    )
    allow_pickle: bool = Field(
        False,
        description="Unpickle the weights and adapters, which runs whatever code they hold. Only for files that you "
        "made.",
    )
