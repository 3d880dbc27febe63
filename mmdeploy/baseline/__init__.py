"""A build against an earlier one that was accepted: what of both can be compared, and what came of it."""
