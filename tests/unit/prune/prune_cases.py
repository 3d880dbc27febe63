"""Components from source text, as a recipe would name them, and passes run on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Encoding, StepContext, TrainingSetup
from mmdeploy.core.facts import as_metadata
from mmdeploy.core.target import Target
from mmdeploy.export import onnx_dynamo
from mmdeploy.model.torch_component import ComponentFacts, load_component

HEAD = "import torch\nfrom torch import nn\n\n"


def plain(expression: str, *, seed: int = 0) -> str:
    """Return a model whose attribute ``part`` is what an expression makes."""
    return (
        HEAD + "class Model(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"        self.part = {expression}\n\n"
        f"def build():\n    torch.manual_seed({seed})\n    return Model()\n"
    )


def component(folder: Path, source: str, *inputs: str, outputs: tuple[str, ...] = ("y",), module="part") -> Artifact:
    """Return the artifact of a component, its code written into a folder of its own."""
    recipe = folder / "recipe"
    recipe.mkdir(parents=True, exist_ok=True)
    (recipe / "model.py").write_text(source)
    facts = ComponentFacts("model.py:build", recipe, None, module, tuple(inputs), tuple(outputs))
    return Artifact("torch", recipe / "model.py", "", (), (), "recipe", as_metadata(facts))


def normal(**shapes: tuple[int, ...]) -> Callable[[int], dict[str, Any]]:
    """Return a maker of feed dicts of the given batch size, the same numbers each time."""

    def feeds(batch: int) -> dict[str, Any]:
        random = np.random.default_rng(batch)
        return {name: random.standard_normal((batch, *shape)).astype(np.float32) for name, shape in shapes.items()}

    return feeds


def step(folder: Path, feeds: Callable[[int], dict[str, Any]], training: TrainingSetup | None = None) -> StepContext:
    """Return the context of one step, with a working folder of its own."""
    workdir = folder / f"step{len(list(folder.glob('step*')))}"
    workdir.mkdir()
    return StepContext(
        component="part", workdir=workdir, target=Target.CPU, encoding=Encoding.UINT8_ASYMMETRIC, max_batch_size=4,
        seed=0, threads=1, examples=feeds, training=training,
    )  # fmt: skip


def pruned_by(method: Any, artifact: Artifact, context: StepContext, **options: Any) -> tuple[Artifact, Any]:
    """Run a pass; return its artifact, and the module loaded from it."""
    after = method.run(artifact, method.Options(**options), context)
    return after, load_component(after)


def answers(module: Any, feed: dict[str, Any]) -> list[torch.Tensor]:
    """Return a module's outputs for a feed dict."""
    with torch.no_grad():
        given = module(**{name: torch.from_numpy(value) for name, value in feed.items()})
    return list(given) if isinstance(given, tuple) else [given]


def exported(artifact: Artifact, context: StepContext) -> Artifact:
    """Export to ONNX, which compares the graph with PyTorch."""
    return onnx_dynamo.run(artifact, onnx_dynamo.Options(), context)
