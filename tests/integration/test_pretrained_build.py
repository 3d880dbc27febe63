"""A checkpoint of `transformers` from `mmdeploy init --pretrained` to a Triton that is sent pictures as files."""

import numpy as np
import pytest
from pretrained_checkpoints import vit
from whole_recipe import built, served

from mmdeploy.scaffold.files import write_files
from mmdeploy.scaffold.pretrained import Asked, propose

pytestmark = [pytest.mark.triton, pytest.mark.slow]
#: What this test is not about, and takes time.
QUICK = ("components.encoder.quantize=null", "gates=[{method: parity, min_cosine: 0.9999}]")


def test_a_picture_is_answered_as_by_transformers(tmp_path):
    import torch
    from transformers import ViTForImageClassification

    vit(tmp_path / "checkpoint")
    proposed = propose(Asked(tmp_path / "checkpoint", tmp_path / "recipe/recipe.yaml", "tiny_vit"))
    write_files(proposed.texts, force=False)
    (part,) = proposed.form.parts
    assert part.reader is not None
    files = part.reader.samples()
    proposed.samples.mkdir()
    for number, file in enumerate(files):
        (proposed.samples / f"{number}.png").write_bytes(file)
    outcome = built(tmp_path / "recipe/recipe.yaml", tmp_path, QUICK)
    model = ViTForImageClassification.from_pretrained(tmp_path / "checkpoint", local_files_only=True).eval()
    with served(outcome, tmp_path) as running:
        runner = running.runner("tiny_vit")
        for file in files:
            given = runner.infer({"image": np.array([[file]], dtype=object)})["logits"]
            with torch.inference_mode():
                wanted = model(pixel_values=torch.from_numpy(part.reader.feeds(file)["pixel_values"])).logits.numpy()
            np.testing.assert_allclose(given, wanted, atol=2e-5)
        runner.close()
