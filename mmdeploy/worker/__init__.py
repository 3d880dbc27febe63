"""What runs inside a step's own process."""
