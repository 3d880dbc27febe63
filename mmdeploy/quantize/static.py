"""temp"""
from typing import Literal
from mmdeploy.contracts import MethodOptions
CONSUMES="onnx"; PRODUCES="onnx"; REQUIRES=("onnx",)
class Options(MethodOptions):
    method: Literal["static"]
    calibrator: str = "minmax"
    samples: int = 256
    exclude: tuple[str, ...] = ()
def run(artifact, options, context):
    raise NotImplementedError
