"""What became of a component's tensors on the way from PyTorch to its engine, and which was the first to go wrong.

`run.run_debug` builds what is missing and compares each form of a component with the one that it was made from: the
exported graph with the PyTorch module, the Q/DQ graph with the exported one, each engine with its graph.
"""
