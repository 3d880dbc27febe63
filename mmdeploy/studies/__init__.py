"""Many builds of one recipe: a search over its settings, and a repository for each class of hardware."""
