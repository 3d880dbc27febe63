"""Python steps of a served ensemble: each file is copied into a release as it is, and imports nothing of mmdeploy."""
