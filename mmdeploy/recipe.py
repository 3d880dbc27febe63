"""The recipe: its schema (pydantic, frozen, no extra keys).

Options of passes, engines and gates are the ``Options`` classes of their modules, told apart by ``method``; the
unions below are made from the literal dicts of the packages, so a new module is in the schema by its entry.
"""
