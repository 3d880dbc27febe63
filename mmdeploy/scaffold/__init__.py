"""A first recipe of a model that nobody has described yet: looked at while it answers real samples, then proposed."""
