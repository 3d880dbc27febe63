"""Folder of the ``tensorrt_rtx`` backend; Triton loads ``model.py`` from it."""
