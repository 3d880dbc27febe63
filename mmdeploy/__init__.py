"""mmdeploy: compile trained multimodal PyTorch models into gated, served Triton ensembles."""

__version__ = "0.1.0"
