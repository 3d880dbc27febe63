"""The version, in a module of its own at the bottom of the layers."""

__version__ = "0.1.0"
