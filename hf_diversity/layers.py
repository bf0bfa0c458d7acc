"""Which layers to regularise: the last hidden one by default, or the modules that names and patterns select."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from .capture import LayerTarget

# What wrappers put between a user's names: torch.compile, FSDP1 and activation checkpointing under names of their own,
# the data-parallel ones under the ordinary name `module`
_WRAPPED_AS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_PARALLEL = {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "DeepSpeedEngine"}
_OUTPUT_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def find_layers(model: nn.Module, patterns: Sequence[str] | None) -> list[LayerTarget]:
    """Resolve `DiversityConfig.layers`.

    Args:
        model: the model, wrapped or not.
        patterns: None for the last hidden layer (the input of the output head), or module names and patterns in which
            `*` and `?` stay within one dotted part and `**` crosses dots, as in file globs:
            "encoder.layer.*" selects the blocks, not what is inside them.

    Returns:
        The layers, in the model's order, each once.

    Raises:
        ValueError: a pattern matches nothing, or the output head cannot be told; with names to type instead.
    """
    if patterns is None:
        return [find_last_hidden_layer(model)]
    modules = dict(plain_names(model))
    chosen: set[str] = set()
    for pattern in patterns:
        expression = _glob_to_regex(pattern)
        matches = [name for name in modules if expression.fullmatch(name)]
        if not matches:
            near = difflib.get_close_matches(pattern, modules, n=5, cutoff=0)
            raise ValueError(
                f"layers: {pattern!r} matches no module of {type(model).__name__}; nearest names: {', '.join(near)}"
            )
        chosen.update(matches)
    targets: dict[nn.Module, LayerTarget] = {}
    for name, module in modules.items():
        if name in chosen:
            targets.setdefault(module, LayerTarget(name, module))  # a shared module once, whatever its names
    return list(targets.values())


def plain_names(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every module below `model` by the base model's names, without what wrappers add; shared modules by each name."""
    if prefix == "" and hasattr(model, "peft_config"):
        inner = getattr(getattr(model, "base_model", None), "model", None)
        if isinstance(inner, nn.Module):
            yield from plain_names(inner)
            return
    parallel = type(model).__name__ in _PARALLEL
    for name, child in model._modules.items():  # named_children would leave out a shared module's second name
        if child is None:
            continue
        if name in _WRAPPED_AS or (parallel and name == "module"):
            yield from plain_names(child, prefix)
        else:
            yield prefix + name, child
            yield from plain_names(child, f"{prefix}{name}.")


def _glob_to_regex(pattern: str) -> re.Pattern[str]:
    pieces = re.split(r"(\*\*|\*|\?)", pattern)
    wild = {"**": ".*", "*": r"[^.]*", "?": r"[^.]"}
    return re.compile("".join(wild.get(piece, re.escape(piece)) for piece in pieces))


def find_last_hidden_layer(model: nn.Module) -> LayerTarget:
    """The last hidden layer: what the last weighted layer of the output head receives.

    timm models name their head (`get_classifier`). In a transformers model the head is what stands beside the base
    model (`base_model_prefix`); a head with a hidden layer of its own ends in the layer that makes the logits. In any
    other module it is taken to be the last one registered outside transformers base models. `check_output_layer`
    confirms the choice in the first training step. A SentenceTransformer has no head: its last hidden layer is the
    sentence embedding, before it is normalised.

    Raises:
        ValueError: no head, or more than one that makes logits; lists candidates for `DiversityConfig(layers=[...])`.
    """
    names = {module: name for name, module in plain_names(model)}
    names.setdefault(model, "")
    if (embedding := _sentence_embedding(model)) is not None:
        return LayerTarget(names[embedding], embedding)
    timm_model: Any = next((m for m in model.modules() if callable(getattr(m, "get_classifier", None))), None)
    if timm_model is not None:
        head = timm_model.get_classifier()
        single = isinstance(head, nn.Module) and not isinstance(head, nn.ModuleList | nn.ModuleDict)
        heads = _output_layers(head) if isinstance(head, nn.Module) else []
        heads = heads[-1:] if single else heads
    else:
        heads = _heads_beside_the_base(model)
    if len(heads) == 1:
        return LayerTarget(
            names[heads[0]], heads[0], point="input", stand_in=_base_below_language_head(model, heads[0])
        )
    found = ", ".join(names[h] for h in heads) if heads else "none"
    raise ValueError(
        f"cannot tell the output head of {type(model).__name__} (found: {found}), and so not its last hidden layer; "
        f"{_what_to_type(names)}"
    )


def _what_to_type(names: dict[nn.Module, str]) -> str:
    candidates = [name for module, name in names.items() if isinstance(module, _OUTPUT_LAYERS)][-8:]
    return (
        "type DiversityConfig(layers=[...]) with the layers whose outputs to regularise, for example from: "
        f"{', '.join(candidates) or 'model.named_modules()'}"
    )


def _heads_beside_the_base(model: nn.Module) -> list[nn.Module]:
    """The layers that make the outputs, outside the base model."""
    owner = next((m for m in model.modules() if isinstance(m, PreTrainedModel)), None)
    base = getattr(owner, owner.base_model_prefix, None) if owner is not None and owner.base_model_prefix else None
    if owner is None or base is None or base is owner:
        embeddings = owner.get_output_embeddings() if owner is not None else None
        if isinstance(embeddings, _OUTPUT_LAYERS):  # T5, whose base model is not a module of its own
            return [embeddings]
        # Not a transformers model with a head: a user's own module
        inside = {m for nested in model.modules() if isinstance(nested, PreTrainedModel) for m in nested.modules()}
        return [layer for layer in _output_layers(model) if layer not in inside][-1:]
    labels = getattr(owner.config, "num_labels", None)
    beside = [child for child in owner.children() if child is not base]
    ends = [layers[-1] for child in beside if (layers := _output_layers(child))]
    if len(ends) > 1:
        # DistilBERT has a hidden `pre_classifier` beside its `classifier`: only an end as wide as the labels is output
        ends = [e for e in ends if getattr(e, "out_features", getattr(e, "out_channels", None)) == labels] or ends
    return ends


def _sentence_embedding(model: nn.Module) -> nn.Module | None:
    """The module of a SentenceTransformer whose output is the embedding; None for other models."""
    library = sys.modules.get("sentence_transformers")  # a model of it exists only where it was imported
    if library is None:
        return None
    sentence_model = next((m for m in model.modules() if isinstance(m, library.SentenceTransformer)), None)
    if sentence_model is None:
        return None
    return [child for child in sentence_model.children() if type(child).__name__ != "Normalize"][-1]


def _base_below_language_head(model: nn.Module, head: nn.Module) -> nn.Module | None:
    """The base model whose output a language model's head receives as it is; None where something is between."""
    owner = next((m for m in model.modules() if isinstance(m, PreTrainedModel)), None)
    if owner is None or owner.get_output_embeddings() is not head:
        return None
    base = getattr(owner, owner.base_model_prefix, None)
    return base if base is not owner and set(owner.children()) == {base, head} else None


def _output_layers(head: nn.Module) -> list[nn.Module]:
    return [module for module in head.modules() if isinstance(module, _OUTPUT_LAYERS)]


def check_output_layer(model: nn.Module, target: LayerTarget, loss: Tensor) -> None:
    """Confirm that the output head found by structure is the one layer that the loss comes from.

    Walks back from the loss through operations without weights; what is met first on every path is an output layer.
    Where the graph shows no weights (compiled, sharded or frozen ones) there is nothing to compare with.

    Args:
        model: the unwrapped model.
        target: from `find_last_hidden_layer`.
        loss: the task loss, with its graph.

    Raises:
        ValueError: the loss comes from another layer, or from more than one.
    """
    weight = getattr(target.module, "weight", None)
    if not isinstance(weight, Tensor) or not weight.requires_grad:
        return
    found = _weights_before(loss)
    if not found or (len(found) == 1 and weight is found[0]):
        return
    owners = [(name, module) for name, module in plain_names(model) if getattr(module, "weight", None) is not None]
    makers = [next((n for n, m in owners if m.weight is w), "a weight outside any layer") for w in found]
    names = {module: name for name, module in plain_names(model)}
    raise ValueError(
        f"the last hidden layer was taken to be the input of {target.name!r}, but the loss comes from "
        f"{', '.join(makers)}; {_what_to_type(names)}"
    )


def _weights_before(loss: Tensor) -> list[Tensor]:
    """The matrices that the loss meets first on each path back through its graph."""
    found: dict[int, Tensor] = {}
    seen, front = set(), [(loss.grad_fn, loss.output_nr)]
    while front:
        node, output = front.pop()
        if node is None or node in seen:
            continue
        if node.name().startswith("CompiledFunction"):
            return []  # one node for the whole model, which takes all its weights at once
        seen.add(node)
        before = node.next_functions
        if node.name() == "_DDPSinkBackward":  # all outputs of the model pass through it, each by itself
            before = before[output : output + 1]
        direct = [w for following, _ in before if (w := _matrix(following)) is not None]
        if direct:
            found.update((id(w), w) for w in direct)
        else:
            front.extend(before)
    return list(found.values())


def _matrix(node: Any) -> Tensor | None:
    """The parameter that `node` reads, through a transpose or a cast (autocast), if it is a matrix."""
    for _ in range(3):
        if node is None:
            return None
        variable = getattr(node, "variable", None)
        if variable is not None:
            return variable if variable.ndim > 1 else None
        if len(node.next_functions) != 1:
            return None
        node = node.next_functions[0][0]
    return None
