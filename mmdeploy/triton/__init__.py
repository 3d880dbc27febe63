"""Triton: its configuration and model repository, its server and a client for it."""
