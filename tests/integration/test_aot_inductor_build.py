"""Machine code from torch's compiler: built, judged as a real Triton serves it; refused by other processors."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from whole_recipe import built, served

from mmdeploy.core.errors import ServerError
from mmdeploy.core.target import this_hardware
from mmdeploy.engines.aot_package import ISA, built_with
from mmdeploy.triton.config import parse

pytestmark = [pytest.mark.triton, pytest.mark.slow]


def for_another_processor(package: Path) -> None:
    """Let a package say that it needs an instruction set that no processor has."""
    with zipfile.ZipFile(package) as read:
        parts = [(part, read.read(part)) for part in read.infolist()]
    with zipfile.ZipFile(package, "w", zipfile.ZIP_STORED) as written:
        for part, content in parts:
            if part.filename.endswith("_metadata.json"):
                content = json.dumps(json.loads(content) | {ISA: "avx1024_x"}).encode()
            written.writestr(part, content)


def test_a_component_is_compiled_served_and_refused_elsewhere(tiny_recipe: Path, tmp_path: Path) -> None:
    fields = yaml.safe_load(tiny_recipe.read_text())
    del fields["components"]["left"]["quantize"]
    fields["components"]["left"] |= {
        "engine": {"method": "aot_inductor"},
        "serving": {"max_batch_size": 4},
    }
    tiny_recipe.write_text(yaml.safe_dump(fields))
    outcome = built(tiny_recipe, tmp_path)
    assert outcome.report.substitute is None
    steps = {step.id: step for step in outcome.report.steps}
    assert steps["left/engine"].metadata["compared"].startswith("its graph as written, in ONNX Runtime")
    published = outcome.report.published
    assert published is not None
    folder = published / "two_towers.left"
    config = parse((folder / "config.pbtxt").read_text(), "config.pbtxt")
    assert (config.backend, config.default_model_filename) == ("aot_inductor", "model.pt2")
    assert built_with(folder / "1" / "model.pt2")[ISA].split() == list(this_hardware().isa)

    with served(outcome, tmp_path) as running:
        left, random = running.runner("two_towers.left"), np.random.default_rng(3)
        for batch in (1, 3):
            rows = random.normal(size=(batch, 8)).astype(np.float32)
            alone = [left.infer({"values": row[None]})["embedding"][0] for row in rows]
            np.testing.assert_allclose(left.infer({"values": rows})["embedding"], alone, rtol=1e-4, atol=1e-5)
        left.close()

    for_another_processor(folder / "1" / "model.pt2")
    refused = pytest.raises(ServerError, match="a processor with avx1024_x, and this one has not")
    with refused, served(outcome, tmp_path):
        pass
