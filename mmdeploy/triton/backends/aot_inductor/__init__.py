"""Folder of the ``aot_inductor`` backend; Triton loads ``model.py`` from it."""
