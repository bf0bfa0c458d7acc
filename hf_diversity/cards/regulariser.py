"""The regulariser of a card in words: its settings with what each of them means for this run."""

from __future__ import annotations

import dataclasses
import inspect

from ..config import DiversityConfig
from ..registry import has_gamma, registered_measure
from .settings import changed_names

_MEASURES = {
    "direct": "J: the mean (reduction sum: the sum) over pairs of units n, m of s_nm = mean of "
    "exp(-gamma (a_n - a_m)^2) over the samples.",
    "det": "J: -det(S + jitter I), S the matrix of all s_nm = mean of exp(-gamma (a_n - a_m)^2) over the samples.",
    "logdet": "J: -log det(S + jitter I), S the matrix of all s_nm = mean of exp(-gamma (a_n - a_m)^2) over the "
    "samples.",
    "decov": "J: half the sum of the squared covariances of different units (DeCov).",
    "vcreg": "J: a hinge that keeps each unit's standard deviation at 1 or more, and the mean squared covariance of "
    "different units (VCReg).",
    "correlation": "J: the mean squared correlation of different units.",
    "orthogonality": "J: the squared Frobenius norm of W^T W - I of the weights (SO).",
    "srip": "J: the largest singular value of W^T W - I of the weights, by power iteration (SRIP).",
    "none": "No J: the norm term alone.",
}
_GAMMA = {
    True: "It follows the median distance between units: gamma = 1 / (2 m^2), a running average.",
    False: "Sharpness of the similarity, fixed.",
}


def told(diversity: DiversityConfig) -> list[tuple[str, object, str]]:
    """Field, value and meaning: the measure, its weight and gamma if it has them, and what is not the default."""
    shown = {"measure", *changed_names(diversity)}
    if diversity.measure != "none":
        shown.add("diversity_weight")
    if has_gamma(diversity.measure):
        shown.add("gamma")
    meanings = {
        **{field.name: field.metadata["help"] for field in dataclasses.fields(DiversityConfig)},
        "measure": _measure(diversity.measure),
        "gamma": _GAMMA[diversity.gamma == "median"],
    }
    return [(name, getattr(diversity, name), meaning) for name, meaning in meanings.items() if name in shown]


def _measure(name: str) -> str:
    """What J is; of a measure that a user has registered, the first paragraph of its docstring."""
    own = registered_measure(name)
    if own is None:
        return _MEASURES[name]
    paragraph = inspect.cleandoc(own.__doc__ or "").partition("\n\n")[0]
    return f"J: {' '.join(paragraph.split()) or 'a measure that the author of this model has registered.'}"
