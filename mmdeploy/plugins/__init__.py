"""Passes, engines and gates from outside: beside a recipe, or of an installed package, under the same contracts."""
