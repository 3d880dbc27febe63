"""From files and text to tensors, and from scores to answers: one implementation for training and for the server.

Methods take one sample at a time, so that an answer depends on no other. `METHODS` names them as recipes do; each can
be used by itself::

    from mmdeploy.preprocess import DecodeImage

    pixels = DecodeImage(resize=256, crop=(224, 224)).row({"data": Path("cat.jpg").read_bytes()})["pixels"]

This package imports nothing of mmdeploy: a release holds a copy of it beside each step that runs it.
"""

from .decode_audio import DecodeAudio
from .decode_image import DecodeImage
from .nearest import Nearest
from .own import Own
from .pipeline import METHODS, Pipeline, WiredMethod
from .refusal import ANY_ROW, RefusedError, Spec
from .sample_frames import SampleFrames
from .scores import L2Normalise, Normalise, Softmax, Threshold, TopK
from .tokenize_text import Tokenize

__all__ = [
    "ANY_ROW",
    "METHODS",
    "DecodeAudio",
    "DecodeImage",
    "L2Normalise",
    "Nearest",
    "Normalise",
    "Own",
    "Pipeline",
    "RefusedError",
    "SampleFrames",
    "Softmax",
    "Spec",
    "Threshold",
    "Tokenize",
    "TopK",
    "WiredMethod",
]
