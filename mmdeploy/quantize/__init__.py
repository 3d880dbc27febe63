"""temp"""
from mmdeploy.quantize import static
METHODS = {"static": static}
