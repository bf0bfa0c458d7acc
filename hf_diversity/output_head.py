"""Where a model's outputs are made: the weighted layers that end it, and with them its last hidden layer.

By structure first, since that costs nothing: timm models name their classifier, transformers ones hold their head
beside the base model or name their output embeddings. Where that leaves a doubt, one forward pass is watched: a copy
of the model without storage (meta device) gets made-up inputs, and its graph tells which weights come last. The first
training step confirms the answer on the real loss (`check_output_layers`).
"""

from __future__ import annotations

import copy
import sys
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from .capture import LayerTarget
from .dummy_inputs import dummy_inputs
from .module_names import bare_model, plain_names
from .timm_models import is_raw_timm_model

logger = logging.get_logger(__name__)

_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)

# The heads that were watched, by model: later the parameters may be sharded, and could not be watched again
_watched: weakref.WeakKeyDictionary[nn.Module, list[nn.Module]] = weakref.WeakKeyDictionary()


def find_last_hidden_layers(model: nn.Module) -> list[LayerTarget]:
    """The last hidden layer: what the last weighted layer of the output head receives.

    Args:
        model: wrapped or not, its parameters anywhere.

    Returns:
        One target, or one for each head where the outputs come from several (a distilled DeiT, CLIP's two
        projections). For a timm model without classes (`num_classes=0`) it is that model's own output, for a
        SentenceTransformer the sentence embedding before it is normalised.

    Raises:
        ValueError: the head cannot be told; lists candidates for `DiversityConfig(layers=[...])`.
    """
    bare = bare_model(model)
    names = {module: name for name, module in plain_names(model)}
    if (embedding := _sentence_embedding(bare)) is not None:
        return [LayerTarget(names[embedding], embedding)]
    if (headless := _timm_without_classes(bare)) is not None:
        return [LayerTarget(names.get(headless, type(headless).__name__), headless)]
    heads = _by_structure(bare)
    if len(heads) != 1 or _has_rival(bare, heads[0]):
        watched = _by_watching(bare)
        heads = watched or _as_wide_as_outputs(bare, heads)
        if not watched and len(heads) != 1:
            found = ", ".join(names[h] for h in heads) if heads else "none"
            raise ValueError(
                f"cannot tell the output head of {type(bare).__name__} (found: {found}), and so not its last hidden "
                f"layer; {_what_to_type(names)}"
            )
    return [
        LayerTarget(names[head], head, point="input", stand_in=_base_below_language_head(bare, head)) for head in heads
    ]


def _what_to_type(names: dict[nn.Module, str]) -> str:
    candidates = [name for module, name in names.items() if isinstance(module, _LAYERS)][-8:]
    return (
        "type DiversityConfig(layers=[...]) with the layers whose outputs to regularise, for example from: "
        f"{', '.join(candidates) or 'model.named_modules()'}"
    )


# ---- by structure


def _sentence_embedding(model: nn.Module) -> nn.Module | None:
    """The module of a SentenceTransformer whose output is the embedding; None for other models."""
    library = sys.modules.get("sentence_transformers")  # a model of it exists only where it was imported
    if library is None:
        return None
    sentence_model = next((m for m in model.modules() if isinstance(m, library.SentenceTransformer)), None)
    if sentence_model is None:
        return None
    children: list[nn.Module] = [c for c in sentence_model.children() if type(c).__name__ != "Normalize"]
    return children[-1]


def _base_below_language_head(model: nn.Module, head: nn.Module) -> nn.Module | None:
    """The base model whose output a language model's head receives as it is; None where something is between."""
    owner = next((m for m in model.modules() if isinstance(m, PreTrainedModel)), None)
    if owner is None or owner.get_output_embeddings() is not head:
        return None
    base = getattr(owner, owner.base_model_prefix, None)
    return base if base is not owner and set(owner.children()) == {base, head} else None


def _timm_without_classes(model: nn.Module) -> nn.Module | None:
    inner = getattr(model, "timm_model", model)  # encoders that are never classifiers have no get_classifier
    return inner if isinstance(getattr(inner, "pretrained_cfg", None), dict) and inner.num_classes == 0 else None


def _by_structure(model: nn.Module) -> list[nn.Module]:
    """The layers that seem to make the outputs; none or several where structure does not tell."""
    timm_model: Any = getattr(model, "timm_model", model)
    if is_raw_timm_model(timm_model):
        classifier = timm_model.get_classifier()
        parts = classifier if isinstance(classifier, tuple | list | nn.ModuleList) else [classifier]
        ends = [list(_output_layers(part))[-1:] for part in parts if isinstance(part, nn.Module)]
        return [layer for end in ends for layer in end]
    if isinstance(model, PreTrainedModel):
        return _beside_the_base(model)
    # A user's own module: what it has outside of library models, or else the one that it holds
    nested = list(_nested_models(model))
    inside = {module for inner in nested for module in inner.modules()}
    own = [layer for layer in _output_layers(model) if layer not in inside]
    return own[-1:] if own or len(nested) != 1 else _by_structure(nested[0])


def _beside_the_base(model: PreTrainedModel) -> list[nn.Module]:
    """Each child beside the base model ends in an output layer; the output embeddings are one as well."""
    embeddings: Any = model.get_output_embeddings()
    ends = [embeddings] if _is_output_layer(embeddings) else []
    base = getattr(model, model.base_model_prefix, None) if model.base_model_prefix else None
    nested = [base] if isinstance(base, nn.Module) else list(_nested_models(model))
    if not nested:  # T5, say, whose base model is not a module of its own
        return ends
    beside = [child for child in model.children() if child not in nested]
    return list(dict.fromkeys([*ends, *(layers[-1] for child in beside if (layers := list(_output_layers(child))))]))


def _as_wide_as_outputs(model: nn.Module, heads: list[nn.Module]) -> list[nn.Module]:
    """Those as wide as the labels: DistilBERT, say, has a hidden `pre_classifier` beside its `classifier`."""
    if not isinstance(model, PreTrainedModel) or len(heads) < 2:
        return heads
    embeddings, labels = model.get_output_embeddings(), getattr(model.config, "num_labels", None)
    return [head for head in heads if head is embeddings or _width(head) == labels] or heads


def _nested_models(model: nn.Module) -> Iterator[nn.Module]:
    """The largest transformers and timm models inside `model`."""
    for child in model.children():
        if isinstance(child, PreTrainedModel) or is_raw_timm_model(child):
            yield child
        else:
            yield from _nested_models(child)


def _output_layers(module: nn.Module) -> Iterator[nn.Module]:
    """The layers in `module` that could make outputs, in order; with PEFT, an adapted layer is one."""
    if _is_output_layer(module):
        yield module
        return
    trained = getattr(module, "modules_to_save", None)
    if isinstance(trained, nn.ModuleDict):  # PEFT's ModulesToSaveWrapper: the original beside what runs
        active = [trained[name] for name in getattr(module, "active_adapters", ()) if name in trained]
        children: Iterable[nn.Module] = active or trained.values()
    else:
        children = module.children()
    for child in children:
        yield from _output_layers(child)


def _is_output_layer(module: Any) -> bool:
    return isinstance(module, _LAYERS) or (
        isinstance(module, nn.Module) and isinstance(getattr(module, "base_layer", None), _LAYERS)
    )


def _width(layer: nn.Module) -> int | None:
    layer = getattr(layer, "base_layer", layer)
    return getattr(layer, "out_features", getattr(layer, "out_channels", None))


def _has_rival(model: nn.Module, head: nn.Module) -> bool:
    """Whether another layer is as wide as the outputs: a second or an auxiliary head, or a coincidence."""
    return any(layer is not head and _width(layer) == _width(head) for layer in _output_layers(model))


# ---- by watching


def _by_watching(model: nn.Module) -> list[nn.Module]:
    """The output layers, in the model's order, from the graph of one forward pass; none where it cannot be run."""
    if model not in _watched:
        try:
            twin = _without_storage(model).eval()
            layers = list(zip(_output_layers(model), _output_layers(twin), strict=True))
            ran: set[nn.Module] = set()
            for _, copied in layers:
                copied.register_forward_pre_hook(lambda module, _: ran.add(module))
            with torch.enable_grad(), torch.random.fork_rng(devices=[]):
                outputs = _outputs(twin(**dummy_inputs(twin, device="meta")))
        except Exception as error:  # whatever a forward pass that cannot look at its numbers stumbles over
            logger.debug(f"{type(model).__name__} could not be watched: {type(error).__name__}: {error}")
            return []
        last = {id(weight) for weight in _weights_before(outputs)}
        heads = [(layer, copied) for layer, copied in layers if last & {id(p) for p in copied.parameters()}]
        whole = last <= {id(p) for _, copied in heads for p in copied.parameters()}
        called = all(copied in ran for _, copied in heads)
        _watched[model] = [layer for layer, _ in heads] if whole and called and not _chained(outputs) else []
    return _watched[model]


def _without_storage(model: nn.Module) -> nn.Module:
    """A copy of `model` on the meta device, made without copying a weight."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=empty.is_floating_point())
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype, device="meta")
    for module in model.modules():  # what forward passes left on modules (LeViT's attention biases) has a graph
        for kept in vars(module).values():
            for value in kept.values() if isinstance(kept, dict) else [kept]:
                if isinstance(value, Tensor) and not value.is_leaf:
                    memo[id(value)] = value.detach().to("meta")
    return copy.deepcopy(model, memo)


def _outputs(output: Any) -> list[Tensor]:
    """The tensors that a loss would be made from; of named outputs the logits, without which there is no head."""
    if hasattr(output, "items"):
        output = [value for key, value in output.items() if "logits" in key]
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in output for tensor in _outputs(part)] if isinstance(output, tuple | list) else []


# ---- what the first training step tells


def check_output_layers(model: nn.Module, targets: list[LayerTarget], loss: Tensor) -> bool:
    """Confirm that the output heads found are the layers that the loss comes from.

    Walks back from the loss through operations without weights; what is met first on every path is an output layer.
    Where the graph shows no weights (compiled, sharded or frozen ones) there is nothing to compare with.

    Args:
        model: the unwrapped model.
        targets: from `find_last_hidden_layers`.
        loss: the task loss, with its graph.

    Returns:
        Whether it was confirmed; False where there is nothing to compare with.

    Raises:
        ValueError: the loss comes from other layers, or from more or fewer than these.
    """
    weights = [getattr(target.module, "weight", None) for target in targets]
    if any(not isinstance(w, Tensor) or not w.requires_grad for w in weights):
        return False
    found = _weights_before([loss])
    if not found or {id(w) for w in found} == {id(w) for w in weights}:
        return bool(found)
    owners = [(name, module) for name, module in plain_names(model) if getattr(module, "weight", None) is not None]
    makers = [next((n for n, m in owners if m.weight is w), "a weight outside any layer") for w in found]
    taken = ", ".join(repr(target.name) for target in targets)
    names = {module: name for name, module in plain_names(model)}
    raise ValueError(
        f"the last hidden layer was taken to be the input of {taken}, but the loss comes from {', '.join(makers)}; "
        f"{_what_to_type(names)}"
    )


def _weights_before(outputs: list[Tensor]) -> list[Tensor]:
    """The matrices that the outputs meet first on each path back through their graph."""
    return list({id(w): w for _, weights in _first_weighted(outputs) for w in weights}.values())


def _first_weighted(outputs: list[Tensor]) -> list[tuple[Any, list[Tensor]]]:
    """The operations with matrices that the outputs meet first on each path back, with those matrices."""
    found, seen, front = [], set(), [(output.grad_fn, output.output_nr) for output in outputs]
    while front:
        node, number = front.pop()
        if node is None or node in seen:
            continue
        if "CompiledFunction" in node.name():
            return []  # one node for the whole model, which takes all its weights at once
        seen.add(node)
        before = node.next_functions
        if node.name() == "_DDPSinkBackward":  # all outputs of the model pass through it, each by itself
            before = before[number : number + 1]
        direct = [w for following, _ in before if (w := _matrix(following)) is not None]
        if direct:
            found.append((node, direct))
        else:
            front.extend(before)
    return found


def _chained(outputs: list[Tensor]) -> bool:
    """Whether one of these operations works on the result of another: a residual stream, and no heads side by side."""
    first = _first_weighted(outputs)
    weights = {id(w) for _, direct in first for w in direct}
    seen, front = set(), [f for node, _ in first for f, _ in node.next_functions if _matrix(f) is None]
    while front:
        node = front.pop()
        if node is None or node in seen or "Embedding" in node.name():  # tied to the output layer
            continue
        seen.add(node)
        if id(getattr(node, "variable", None)) in weights:
            return True
        front.extend(following for following, _ in node.next_functions)
    return False


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
