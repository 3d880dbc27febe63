"""Passes that take weights away, on the PyTorch module."""

from collections.abc import Mapping

from mmdeploy.core.contracts import Pass
from mmdeploy.prune import auto, magnitude, n_m, structured

METHODS: Mapping[str, Pass] = {"magnitude": magnitude, "n_m": n_m, "structured": structured, "auto": auto}
