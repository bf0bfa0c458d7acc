"""The regulariser of a card in words: its settings with what each of them means for this run."""

from __future__ import annotations

import dataclasses
import inspect

from ..config import DiversityConfig
from ..registry import has_gamma, registered_measure

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
    """Field, value and meaning: measure, weights and gamma always, every other field where it is not the default."""
    default = DiversityConfig()
    always = ["measure", "diversity_weight", "gamma"] if diversity.measure != "none" else ["measure"]
    if not has_gamma(diversity.measure) and "gamma" in always:
        always.remove("gamma")
    meanings = {
        **{field.name: field.metadata["help"] for field in dataclasses.fields(DiversityConfig)},
        "measure": _measure(diversity.measure),
        "gamma": _GAMMA[diversity.gamma == "median"],
    }
    names = [field.name for field in dataclasses.fields(DiversityConfig)]
    values = {name: getattr(diversity, name) for name in names}
    return [
        (name, values[name], meanings[name])
        for name in names
        if name in always or values[name] != getattr(default, name)
    ]


def _measure(name: str) -> str:
    """What J is; of a measure that a user has registered, the first paragraph of its docstring."""
    own = registered_measure(name)
    if own is None:
        return _MEASURES[name]
    paragraph = inspect.cleandoc(own.__doc__ or "").partition("\n\n")[0]
    return f"J: {' '.join(paragraph.split()) or 'a measure that the author of this model has registered.'}"
