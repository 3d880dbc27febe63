"""Choosing what a component ships by measuring: engine, precision and encoding, compressed or not.

One mechanism behind ``engine: auto`` and behind the rule that compression must pay. The plan builds every candidate
by ordinary steps; a step of the kind ``select`` measures them side by side (`measure`) and copies the winner
(`choose`).
"""
