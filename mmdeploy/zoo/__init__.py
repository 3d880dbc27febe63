"""Blocks in PyTorch for models that mmdeploy deploys: a model imports them, mmdeploy itself does not.

Each is made of operators that ONNX Runtime, OpenVINO and TensorRT have, takes any batch size, and gives what its
reference gives. A family of them is a package (`mmdeploy.zoo.fusion`, …); `mmdeploy.zoo.catalogue` has them all, with
what each may be asked and which forms it is deployed in. The front ends are here, too:

- `LogMel`, `Mfcc`: a sound to its spectrogram.
- `NormalisePixels`, `ResizePixels`: pixels as decoders give them to what a vision encoder takes.
"""

from mmdeploy.zoo.front_ends import LogMel, Mfcc, NormalisePixels, ResizePixels

__all__ = ["LogMel", "Mfcc", "NormalisePixels", "ResizePixels"]
