"""What the output head truly receives, told by the autograd graph of a real forward pass."""

import torch
from torch import nn


def head_inputs(model, run):
    """By name, the inputs of the layers nearest to the outputs of `run(model)`.

    Every module with a matrix records its input and the graph node of its output; walking back from the outputs, the
    first recorded node on each path belongs to an output head. A matrix that is met first outside of such a call has
    the name "?". Independent of the library, which looks at weights, and at names.
    """
    calls, kept, handles = {}, [], []

    def record(name):
        def hook(module, args, kwargs, output):
            if isinstance(output, torch.Tensor) and output.grad_fn is not None:
                calls.setdefault(output.grad_fn, (name, args[0] if args else next(iter(kwargs.values()))))
                kept.append(output)

        return hook

    for name, module in model.named_modules():
        if getattr(getattr(module, "weight", None), "ndim", 0) > 1:
            handles.append(module.register_forward_hook(record(name), with_kwargs=True))
    try:
        with torch.enable_grad():
            outputs = logits_of(run(model))
    finally:
        for handle in handles:
            handle.remove()
    found, seen, front = {}, set(), [output.grad_fn for output in outputs]
    while front:
        node = front.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in calls:
            found[calls[node][0]] = calls[node][1]
            continue
        weight = getattr(node, "variable", None)
        if isinstance(weight, nn.Parameter) and weight.ndim > 1:
            found["?"] = weight
        front.extend(following for following, _ in node.next_functions)
    return found


def logits_of(output):
    """The tensors that a loss is made from."""
    if isinstance(output, torch.Tensor):
        return [output]
    if hasattr(output, "keys"):
        output = [output[k] for k in output if "logits" in k] or list(output.values())[:1]
    return [tensor for part in output for tensor in logits_of(part)]
