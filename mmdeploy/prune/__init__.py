"""Passes that take weights away, on the PyTorch module."""

from mmdeploy.prune import magnitude, n_m

METHODS = {"magnitude": magnitude, "n_m": n_m}
