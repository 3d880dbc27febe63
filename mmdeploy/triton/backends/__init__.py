"""Python-based Triton backends, a folder each, that stand in for native ones of the same name."""
