"""What every room builds on: contracts, artifacts, the store, sessions, targets, errors."""
