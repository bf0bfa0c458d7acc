"""`DiversityConfig`: everything that can be chosen about the regulariser, as one flat dataclass."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .functional import DEFAULT_JITTER
from .registry import WEIGHT_MEASURES, has_gamma, measure_names, unknown_measure

if TYPE_CHECKING:
    Gamma = float | str
    MeasureName = str
else:
    # HfArgumentParser drops `str` from a union and would then refuse "median"; as a `str` field the command line
    # takes both, and __post_init__ turns numbers into floats.
    Gamma = str
    # A command line offers the library's measures; Python takes those that `register_measure` has added as well
    MeasureName = Literal["direct", "det", "logdet", "decov", "vcreg", "correlation", "orthogonality", "srip", "none"]

REDUCTIONS = ("mean", "sum")
SAMPLES = ("auto", "positions", "pooled", "first")
SYNCS = ("global", "local")
ON_NONFINITE = ("raise", "skip")

CONFIG_NAME = "diversity_config.json"
"""The configuration, beside a model and in a checkpoint."""
STATE_NAME = "diversity_state.json"
"""What the regulariser keeps over a restart, beside them."""

T = TypeVar("T")


def _names_unknown_fields(cls: type[T]) -> type[T]:
    """Class decorator for a dataclass: an argument that is no field is refused with the field to type instead."""
    init = cls.__init__

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        if unknown := _unknown_field(cls, kwargs):
            raise TypeError(unknown)
        init(self, *args, **kwargs)

    cls.__init__ = checked  # type: ignore[method-assign]
    return cls


def _unknown_field(cls: Any, keys: Iterable[Any]) -> str | None:
    """The message for the first key that is no field; None if all are."""
    known = [f.name for f in dataclasses.fields(cls)]
    for key in keys:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            close = close or [name for name in known if key in name.split("_")]
            hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(known)}"
            return f"unknown key {key!r} for {cls.__name__}: {hint}"
    return None


@_names_unknown_fields
@dataclass
class DiversityConfig:
    """Configuration of the within-layer diversity regulariser (Laakom et al., 2021; WLD-Reg, AAAI-23).

    The optimised loss is `task_loss + diversity_weight * sum_layers J + activation_weight * sum_layers P` with J the
    redundancy of a layer's units (see `measure`) and P the mean squared norm of its activations.

    The defaults are a gentle regulariser, chosen to do no harm when nothing is set:

    - `gamma="median"` follows the scale of the activations, so one weight means the same in layers of any scale. Its
      pull never saturates, so `diversity_weight` must be small: in a pilot (FashionMNIST and CIFAR-10, 1,000-2,000
      images, clean labels) 0.1 and 1 cost 0.1 to 0.9 points of test accuracy, and 0.01 cost nothing that could be told
      from noise; nor did it on the demo's validation images (.829 against .831, standard error .01). Noisy labels
      rewarded more (1.0: +2.5 points with 40 % of the labels random).
    - What it cannot do: within a step gamma is a constant, so part of the pull grows the activations instead of
      telling units apart. On the demo, larger weights even raised the similarity (recipes/README.md); a fixed `gamma`
      with a small `activation_weight` lowered it. `scale_invariant=True` takes that part out. In
      our studies (recipes/RESULTS.md), with noisy labels, it gained more than plain "median" in a small convolutional
      network and in fine-tuning, as much in a deeper one, and less in an MLP and a ResNet-20. So it is not the
      default: neither is best everywhere, and it is no part of the paper's method. Weights that gained are 1 (in
      fine-tuning) to 100; the default stays gentle, since they cost accuracy where labels are clean.
    - `activation_weight=0`: the norm term is not scale-free: 0.01 was harmless on one data set and cost 8 points on
      another.
    - `reduction="mean"`: the sum over pairs grows as D^2, which would tie `diversity_weight` to the layer's width.

    Args are the fields below; `to_dict`, `from_dict`, `to_json_file` and `from_json_file` round-trip them.

    Raises:
        ValueError: a value is out of range or an option unknown; the message says which and what to type.
        TypeError: a value has the wrong type.

    Example:
        >>> config = DiversityConfig(measure="logdet", diversity_weight=0.001, layers=["bert.encoder.layer.*"])
    """

    measure: MeasureName = field(
        default="direct",
        metadata={
            "help": "Redundancy J of a layer's units, from their similarity matrix S: 'direct' the off-diagonal, "
            "'det' -det(S), 'logdet' -log det(S); from their covariance: 'decov', 'vcreg', 'correlation'; from "
            "the weights: 'orthogonality' (SO), 'srip'; 'none' no J (the norm term alone). In Python also one of your "
            "own, see `register_measure`."
        },
    )
    diversity_weight: float = field(
        default=0.01,
        metadata={"help": "Weight of J, lambda_1 of the paper. With both weights 0 training is Trainer's."},
    )
    activation_weight: float = field(
        default=0.0, metadata={"help": "Weight of the mean squared norm of the activations, lambda_2 of the paper."}
    )
    gamma: Gamma = field(
        default="median",
        metadata={
            "help": "Sharpness of the similarity exp(-gamma (a_n - a_m)^2): a positive number, or 'median' to follow "
            "the median distance between units (a running average, saved with the checkpoint)."
        },
    )
    scale_invariant: bool = field(
        default=False,
        metadata={
            "help": 'With gamma="median": leave out the part of the gradient that grows or shrinks all distances '
            "between units, which gamma would follow in the next step anyway."
        },
    )
    reduction: Literal["mean", "sum"] = field(
        default="mean",
        metadata={"help": "For 'direct': 'mean' over pairs of units, or 'sum' (the paper's form, grows as D^2)."},
    )
    layers: list[str] | None = field(
        default=None,
        metadata={
            "help": "Modules whose outputs are regularised: names as in model.named_modules(), or patterns "
            "in which * stays within a dotted part and ** crosses dots. Default: the last hidden layer, that is, what "
            "the output head receives."
        },
    )
    samples: Literal["auto", "positions", "pooled", "first"] = field(
        default="auto",
        metadata={
            "help": "How activations with positions (pixels, tokens) become samples: 'positions' every one is a "
            "sample, 'pooled' their mean, 'first' the first token, 'auto' pooled for feature maps and positions for "
            "tokens."
        },
    )
    unit_axis: int | None = field(
        default=None,
        metadata={
            "help": "The axis of a layer's activations that counts units, as in a tensor's shape (1 for (N, C, H, W), "
            "-1 for (N, T, D)). Default: told by the layers in the module."
        },
    )
    drop_prefix_tokens: bool = field(
        default=False,
        metadata={"help": "Leave the class and register tokens of a vision transformer out of the samples."},
    )
    max_samples: int | None = field(
        default=None,
        metadata={
            "help": "Use at most this many samples of each layer in a forward pass and process, drawn at random."
        },
    )
    sync: Literal["global", "local"] = field(
        default="global",
        metadata={"help": "Similarity over the batch of all processes ('global') or of each process ('local')."},
    )
    on_nonfinite: Literal["raise", "skip"] = field(
        default="raise",
        metadata={
            "help": "When the regulariser of a step is NaN or infinite: 'raise' stops with an error that names the "
            "layer and the cause, 'skip' drops the whole optimiser step, with a warning and a count in the log."
        },
    )
    jitter: float = field(
        default=DEFAULT_JITTER,
        metadata={
            "help": "Added to the diagonal of S before 'det' and 'logdet': their value is that of S + jitter I."
        },
    )

    def __post_init__(self) -> None:
        """Turn numbers given as text into numbers, and validate."""
        if isinstance(self.gamma, str) and self.gamma != "median":
            try:
                self.gamma = float(self.gamma)
            except ValueError:
                raise ValueError(
                    f"gamma is {self.gamma!r}: it must be a positive number or 'median'; type gamma=\"median\" or "
                    "gamma=1.0"
                ) from None
        if isinstance(self.layers, str):
            raise TypeError(f"layers is the text {self.layers!r}: it must be a list; type layers=[{self.layers!r}]")
        self.validate()

    def validate(self) -> None:
        """Check every field, also after attributes were set by hand.

        Raises:
            ValueError: a value is out of range, or nothing would be regularised.
            TypeError: a value has the wrong type.
        """
        if self.measure not in measure_names():
            raise ValueError(unknown_measure(self.measure))
        for name, options in (
            ("reduction", REDUCTIONS), ("samples", SAMPLES), ("sync", SYNCS),
            ("on_nonfinite", ON_NONFINITE),
        ):  # fmt: skip
            value = getattr(self, name)
            if value not in options:
                raise ValueError(f"{name} is {value!r}: unknown; it must be one of {', '.join(map(repr, options))}")
        for name in ("diversity_weight", "activation_weight"):
            weight = _number(name, getattr(self, name))
            if not math.isfinite(weight) or weight < 0:
                raise ValueError(f"{name} is {weight}: it must be finite and >= 0; type {name}=0.0 to switch it off")
        # Beyond these, float32 products of gamma with squared distances are 0 or infinite
        if self.gamma != "median" and not 1e-30 <= _number("gamma", self.gamma) <= 1e30:
            raise ValueError(
                f"gamma is {self.gamma}: the similarity exp(-gamma d^2) needs a finite gamma > 0 (1e-30 to 1e30); "
                'type gamma="median" '
                "to have it follow the activations"
            )
        if self.gamma != "median" and self.measure != "none" and not has_gamma(self.measure):
            raise ValueError(
                f"gamma is {self.gamma} and measure is {self.measure!r}, which has no gamma; leave gamma out"
            )
        if not (math.isfinite(_number("jitter", self.jitter)) and self.jitter >= 0):
            raise ValueError(f"jitter is {self.jitter}: it must be finite and >= 0; type jitter=1e-4")
        if self.reduction == "sum" and self.measure not in ("direct", "none"):  # none: the twin of a run with direct
            raise ValueError(
                f"reduction is 'sum' and measure is {self.measure!r}, which has no such choice; leave reduction out"
            )
        if not isinstance(self.scale_invariant, bool):
            raise TypeError(f"scale_invariant is {self.scale_invariant!r}: it must be True or False")
        if self.scale_invariant and (self.gamma != "median" or not has_gamma(self.measure)):
            raise ValueError(
                f"scale_invariant is True with gamma={self.gamma!r} and measure={self.measure!r}: it is for a "
                'similarity whose gamma follows the activations; type gamma="median" and measure="direct", "det" or '
                '"logdet", or scale_invariant=False'
            )
        if self.measure in WEIGHT_MEASURES and self.activation_weight > 0:
            raise ValueError(
                f"activation_weight is {self.activation_weight} and measure is {self.measure!r}, which looks at "
                "weights alone; type activation_weight=0.0"
            )
        if self.unit_axis is not None:
            if isinstance(self.unit_axis, bool) or not isinstance(self.unit_axis, int):
                raise TypeError(f"unit_axis is {self.unit_axis!r}: it must be a whole number or None")
            if self.unit_axis == 0:
                raise ValueError("unit_axis is 0: the first axis is the batch; type unit_axis=1 or unit_axis=-1")
        if not isinstance(self.drop_prefix_tokens, bool):
            raise TypeError(f"drop_prefix_tokens is {self.drop_prefix_tokens!r}: it must be True or False")
        if self.drop_prefix_tokens and self.samples == "first":
            raise ValueError(
                'drop_prefix_tokens is True and samples is "first", which is a prefix token; type '
                'samples="positions", or drop_prefix_tokens=False'
            )
        if self.max_samples is not None:
            if isinstance(self.max_samples, bool) or not isinstance(self.max_samples, int):
                raise TypeError(f"max_samples is {self.max_samples!r}: it must be a whole number or None")
            if self.max_samples < 2:
                raise ValueError(
                    f"max_samples is {self.max_samples}: similarity over a batch needs at least 2; type "
                    "max_samples=None for all"
                )
        if self.layers is not None:
            if not isinstance(self.layers, list | tuple) or not all(isinstance(name, str) for name in self.layers):
                raise TypeError(f"layers is {self.layers!r}: it must be a list of module names or None")
            if not self.layers:
                raise ValueError(
                    "layers is empty: name at least one module, or type layers=None for the last hidden one"
                )
            self.layers = list(self.layers)
        if self.measure == "none" and self.activation_weight == 0 and self.diversity_weight > 0:
            raise ValueError(
                "measure is 'none' and activation_weight is 0: nothing would be regularised; type "
                "activation_weight=1e-4 for the norm term alone, or diversity_weight=0 as well to train as Trainer "
                "does"
            )

    @property
    def is_active(self) -> bool:
        """Whether anything is added to the loss; if not, the trainer is plain `Trainer`."""
        return self.activation_weight > 0 or (self.diversity_weight > 0 and self.measure != "none")

    @property
    def is_of_weights(self) -> bool:
        """Whether the measure looks at weights and at no activation."""
        return self.measure in WEIGHT_MEASURES

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict of plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DiversityConfig:
        """Build from a dict; missing keys take their defaults.

        Raises:
            ValueError: a key is unknown.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"values is a {type(values).__name__}: DiversityConfig is made from a dict of its fields")
        if unknown := _unknown_field(cls, values):
            raise ValueError(unknown)
        return cls(**values)

    def to_json_file(self, path: str | os.PathLike[str]) -> None:
        """Write the fields to `path` as JSON."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.to_dict(), file, indent=2)
            file.write("\n")

    @classmethod
    def from_json_file(cls, path: str | os.PathLike[str]) -> DiversityConfig:
        """Read what `to_json_file` wrote; an unknown key, or a measure that is not registered here, is an error."""
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        try:
            return cls.from_dict(values)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{os.fspath(path)}: {error}") from error


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}): it must be a number")
    return float(value)
