"""A gate, a pass and an engine for mmdeploy, each a module that its entry point names."""
