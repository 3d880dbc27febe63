"""Triton Inference Server: its configuration, repository, server, client and Python-based backends."""
