"""Training of one component inside its frozen model: what pruning, recovery and QAT share.

`mmdeploy.training.loop.fit` is the loop, `mmdeploy.training.options` what a recipe says about it, and
`mmdeploy.training.launch` runs a step on several processes.

The engine is Hugging Face Accelerate and not Lightning Fabric. Both are alive and Apache-2.0, and either is a thin
layer over torch.distributed. Accelerate won because whoever has `transformers` has it already, because the same
loop runs unchanged in one process, where it adds nothing to the numbers, and because its launcher and its
configuration files are those that clusters of such users know.
"""
