"""What runs a release in production: container, compose, Kubernetes, KServe, monitoring; see docs/deployment.md."""
