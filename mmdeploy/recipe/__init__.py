"""Recipes: YAML with line numbers, the schema, what is wrong with one, how its components are wired."""
