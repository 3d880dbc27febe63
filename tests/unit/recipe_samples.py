"""A small recipe that is right, and the files that it names."""

from pathlib import Path

SAMPLE = """\
schema_version: 1
name: spoken
target: cpu
model:
  factory: model.py:build
  weights: weights.safetensors
data:
  calibration: data.py:calibration
  evaluation: data.py:evaluation
inputs:
  image: {dtype: UINT8, shape: [8, 8]}
  audio: {dtype: FP32, shape: [4000]}
components:
  image_encoder:
    module: image_encoder
    inputs: {pixels: image}
    outputs: {embedding: image_embedding}
    quantize: {method: static, calibrator: entropy}
    serving: {max_batch_size: 8}
  audio_encoder:
    module: audio_encoder
    inputs: {waveform: audio}
    outputs: {embedding: audio_embedding}
    serving: {max_batch_size: 16}
  fusion:
    module: fusion
    inputs: {image: image_embedding, audio: audio_embedding}
    outputs: {logits: logits}
outputs:
  logits: {labels: labels.txt}
gates:
  - {method: parity, min_cosine: 0.99}
  - {method: size, max_ratio_to_reference: 0.5}
"""


def write_sample_files(folder: Path) -> None:
    """Write the right recipe and the files that it names."""
    (folder / "recipe.yaml").write_text(SAMPLE)
    (folder / "model.py").write_text("import torch\n\n\ndef build():\n    return torch.nn.Identity()\n")
    (folder / "data.py").write_text("def calibration(): ...\n\n\ndef evaluation(): ...\n")
    (folder / "weights.safetensors").write_bytes(b"")
    (folder / "labels.txt").write_text("zero\none\n")
