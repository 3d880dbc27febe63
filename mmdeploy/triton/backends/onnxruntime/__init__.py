"""Folder of the ``onnxruntime`` stand-in; Triton loads ``model.py`` from it."""
