"""Passes that take weights away, on the PyTorch module."""

from mmdeploy.prune import auto, magnitude, n_m, structured

METHODS = {"magnitude": magnitude, "n_m": n_m, "structured": structured, "auto": auto}
