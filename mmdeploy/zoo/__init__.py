"""Blocks in PyTorch for models that mmdeploy deploys: a model imports them, mmdeploy itself does not.

Each is made of operators that ONNX Runtime, OpenVINO and TensorRT have, takes any batch size, and gives what its
reference gives. Front ends, which save a client or a step of `preprocess` from computing what the graph can:

- `LogMel`, `Mfcc`: a sound to its spectrogram.
- `NormalisePixels`, `ResizePixels`: pixels as decoders give them to what a vision encoder takes.
"""

from mmdeploy.zoo.pixels import NormalisePixels, ResizePixels
from mmdeploy.zoo.spectrograms import LogMel, Mfcc

__all__ = ["LogMel", "Mfcc", "NormalisePixels", "ResizePixels"]
