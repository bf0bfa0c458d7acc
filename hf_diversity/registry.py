"""The names that `DiversityConfig.measure` takes: the library's, and those that users register."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from .citations import BY_MEASURE

SIMILARITY_MEASURES = ("direct", "det", "logdet")
COVARIANCE_MEASURES = ("decov", "vcreg", "correlation")
WEIGHT_MEASURES = ("orthogonality", "srip")
MEASURES = (*SIMILARITY_MEASURES, *COVARIANCE_MEASURES, *WEIGHT_MEASURES, "none")

_FORM = (
    "a measure is a class with statistic(self, activations, gamma), or without gamma, which gives a mean over the "
    "samples, and value(self, statistic), which makes J of it"
)
_registered: dict[str, type[Any]] = {}

Class = TypeVar("Class", bound=type[Any])


def register_measure(name: str) -> Callable[[Class], Class]:
    """Decorate a class to make it a measure of activations, `DiversityConfig(measure=name)`.

    It gets what the library's measures have: layers, masks, gamma, logs, evaluation, checkpoints, cards. It is made
    anew, without arguments, for each training, and has

    - `statistic(self, activations, gamma)`: activations (N, D) of N samples and D units, in float32 or float64; N may
      be 1; gamma a number or a 0-dim tensor, in 1 / activation^2. Returns a float tensor of a shape that does not
      depend on N: the mean over the samples of something that each of them has by itself, differentiable. A measure
      without gamma leaves the argument out; then none is measured, logged or saved.
    - `value(self, statistic)`: J, a 0-dim tensor, from the averaged statistic; to be minimised.
    - `citation`, which may be missing: BibTeX of its source. Model cards show it, and the first paragraph of the
      docstring.

    J is that of the samples of all processes, and in an evaluation of the whole set, because the statistic is averaged
    before `value` sees it. With gradient accumulation it is that of the step's samples where `value` is linear (as for
    Direct), and that of each micro-batch where it is not (as for Logdet).

    Args:
        name: that configurations and cards use. A process that reads such a configuration (`load_run`, `probe`) has to
            import the module that registers it first.

    Raises:
        ValueError: the name is the library's, or another class has it.
        TypeError: the name is no text, or the class is not of the form above.

    Example:
        >>> @register_measure("absolute")
        ... class Absolute:
        ...     "Mean over pairs of units of exp(-sqrt(2 gamma) |a_n - a_m|)."
        ...
        ...     def statistic(self, activations, gamma):
        ...         distances = (activations[:, :, None] - activations[:, None]).abs()  # N D^2 numbers: narrow layers
        ...         return (-((2 * gamma) ** 0.5) * distances).exp().mean()
        ...
        ...     def value(self, statistic):
        ...         return statistic
        >>> DiversityConfig(measure="absolute").measure
        'absolute'
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f'name is {name!r}: it must be a text; type @register_measure("name")')
    if name in MEASURES:
        raise ValueError(f"measure {name!r} is one of the library's: type another name")

    def register(measure: Class) -> Class:
        _check_form(measure)
        other = _registered.get(name)
        # The same class defined again, by a cell of a notebook that is run twice, takes the place of the first
        if other is not None and _full_name(other) != _full_name(measure):
            raise ValueError(f"measure {name!r} is already {_full_name(other)}: type another name")
        _registered[name] = measure
        return measure

    return register


def _check_form(measure: Any) -> None:
    if not isinstance(measure, type):
        raise TypeError(f"{measure!r} is no class: {_FORM}")
    for method in ("statistic", "value"):
        if not callable(getattr(measure, method, None)):
            raise TypeError(f"{measure.__name__} has no method {method}: {_FORM}")
    if not _binds(measure, 0):
        raise TypeError(f"{measure.__name__} cannot be made without arguments: give those of __init__ defaults")
    made = measure()
    if not (_binds(made.statistic, 1) or _binds(made.statistic, 2)) or not _binds(made.value, 1):
        raise TypeError(f"the methods of {measure.__name__} take other arguments: {_FORM}")


def _binds(function: Callable[..., Any], count: int) -> bool:
    """Whether it can be called with so many arguments."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    return True


def _full_name(measure: type[Any]) -> str:
    return f"{measure.__module__}.{measure.__qualname__}"


def registered_measure(name: str) -> type[Any] | None:
    """The class that was registered as `name`, or None."""
    return _registered.get(name)


def citation_of(name: str) -> str | None:
    """BibTeX of a measure's source; None where it has none."""
    own = _registered.get(name)
    return BY_MEASURE.get(name) if own is None else getattr(own, "citation", None)


def measure_names() -> tuple[str, ...]:
    """Every measure that there is in this process."""
    return (*MEASURES, *_registered)


def has_gamma(name: str) -> bool:
    """Whether a measure is taken at a gamma."""
    own = _registered.get(name)
    return name in SIMILARITY_MEASURES if own is None else _binds(own().statistic, 2)


def unknown_measure(name: object) -> str:
    """The message for a name that no measure has here."""
    return (
        f"measure is {name!r}: unknown; it must be one of {', '.join(map(repr, measure_names()))}. A measure of your "
        f"own is known once the module that has @register_measure({name!r}) is imported: import it before"
    )
