"""The recipe's PyTorch model: its code, its components, what they cost."""
