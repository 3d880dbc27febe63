"""Folder of the ``openvino`` stand-in; Triton loads ``model.py`` from it."""
