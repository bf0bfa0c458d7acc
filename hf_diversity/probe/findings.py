"""What the numbers mean, in plain words, and the thresholds that the words rest on."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..diagnostics import LayerDiagnostics, generalization_gaps
from .measuring import ROLES, ModelReport
from .scores import accuracy_error

# Effective rank (centred) as a share of the units, or of the samples - 1 where there are fewer
HIGHLY_REDUNDANT, PARTLY_REDUNDANT = 0.25, 0.5
# Mean |correlation| of two units
HIGHLY_CORRELATED, PARTLY_CORRELATED = 0.5, 0.25
COPY_CORRELATION = 0.95  # two units with such a |correlation| are near copies
MANY_COPIES, MANY_DEAD = 0.1, 0.05  # shares of the units
LARGE_CHANGE = 0.15  # relative, between train and test
SURE_GAP = 2.0  # standard errors
_MANY = 4  # layers of which the same is to be said, from which on they are named together
SAMPLES_PER_UNIT = 5  # below it, ranks and correlations are those of the sample

THRESHOLDS = {
    "highly redundant": (
        f"the effective rank (centred) is below {HIGHLY_REDUNDANT:.0%} of the units (or of the samples - 1, where "
        f"there are fewer), or the mean |correlation| of two units is at least {HIGHLY_CORRELATED}"
    ),
    "partly redundant": (
        f"the rank is below {PARTLY_REDUNDANT:.0%}, the mean |correlation| at least {PARTLY_CORRELATED}, or at least "
        f"{MANY_COPIES:.0%} of the units have a near copy"
    ),
    "diverse": "none of these",
    "near copy": f"another unit with a |correlation| of at least {COPY_CORRELATION} over the training examples",
    "many dead units": f"at least {MANY_DEAD:.0%} have one value over all training examples",
    "differs between train and test": f"by more than {LARGE_CHANGE:.0%} of the value on the training examples",
    "a clear gap in accuracy": f"more than {SURE_GAP:g} standard errors of the difference",
    "few samples": f"fewer than {SAMPLES_PER_UNIT} for each unit",
}
_COMPARED = {
    "effective_rank": "effective rank",
    "mean_absolute_correlation": "mean |correlation|",
    "activation_norm": "mean squared norm",
}


@dataclass(frozen=True)
class Finding:
    """One statement.

    Attributes:
        level: "warning", "note" or "good".
        about: the layer, or what else it is about.
        text: a sentence or a few.
        model: of which model; "" where all are compared.
    """

    level: str
    about: str
    text: str
    model: str = ""


def near_copies(correlation: torch.Tensor) -> int:
    """How many units have another one with |correlation| >= `COPY_CORRELATION`; constant units have none."""
    high = correlation.abs() >= COPY_CORRELATION  # NaN is not
    return int((high & ~torch.eye(len(high), dtype=torch.bool)).any(1).sum())


def rank_share(layer: LayerDiagnostics) -> float:
    """Effective rank (centred) as a share of what so many units and samples allow; NaN for a constant layer."""
    return layer.effective_rank / max(1, min(layer.num_units, layer.num_samples - 1))


def redundancy_word(layer: LayerDiagnostics) -> str:
    """How redundant: "highly redundant", "partly redundant", "diverse" or, without any variance, "constant"."""
    share, correlation = rank_share(layer), layer.mean_absolute_correlation
    if math.isnan(share):
        return "constant"
    if share < HIGHLY_REDUNDANT or correlation >= HIGHLY_CORRELATED:
        return "highly redundant"
    copies = near_copies(layer.correlation) / layer.num_units
    partly = share < PARTLY_REDUNDANT or correlation >= PARTLY_CORRELATED or copies >= MANY_COPIES
    return "partly redundant" if partly else "diverse"


def findings(models: Sequence[ModelReport], left: Collection[str] = ROLES) -> list[Finding]:
    """All that is to be said, the most important first within each model.

    Args:
        models: what was measured.
        left: the roles with examples that were not measured.
    """
    said = []
    for model in models:
        own = [*_of_scores(model), *_of_layers(model.layers, left)]
        said += [Finding(f.level, f.about, f.text, model.name) for f in own]
    return [*_of_comparison(models), *said] if len(models) > 1 else said


def advice(models: Sequence[ModelReport]) -> list[str]:
    """What to do, from the findings."""
    layers = [(name, layer["train"]) for model in models for name, layer in model.layers.items()]
    redundant = list(dict.fromkeys(name for name, layer in layers if redundancy_word(layer).endswith("redundant")))
    dead = list(dict.fromkeys(n for n, d in layers if _share(d.constant_units) >= MANY_DEAD))
    said = []
    regularised = [model.name for model in models if model.training is not None and model.training.measure != "none"]
    if redundant and regularised:
        said.append(
            f"{', '.join(regularised)}: trained with the regulariser. Compare, over several seeds, with twins with "
            "both weights 0 and with the norm term alone (measure='none'): without these, no gain can be credited to "
            "diversity."
        )
    elif redundant:
        default = all(model.where[name] == "input" for model in models for name in redundant if name in model.where)
        which = "" if default else "layers=[" + ", ".join(f'"{name}"' for name in redundant[:4]) + "], "
        more = ", ..." if len(redundant) > 4 and not default else ""
        said.append(
            f"Train a twin with DiversityConfig({which.removesuffix(', ')}{more}), beside twins with both weights 0 "
            "and with the norm term alone (measure='none'): without these, no gain can be credited to diversity. A "
            "narrower layer, tuned dropout and weight decay belong into the same comparison."
        )
    if dead:
        said.append(
            f"Dead units in {', '.join(dead[:4])} can neither learn nor be told apart by the regulariser: look at the "
            "learning rate and at the initialisation, or take them out."
        )
    if any(_gap_is_clear(model) for model in models):
        said.append(
            "The gap in accuracy asks for regularisation of any kind: more or augmented data, weight decay and "
            "dropout first. Less redundancy lowers a bound of the estimation error, which is no promise of a smaller "
            "gap."
        )
    return said or ["Nothing here asks for action."]


def _of_scores(model: ModelReport) -> list[Finding]:
    if not model.scores:
        return [Finding("note", "accuracy", f"Loss and accuracy were not measured. {model.why_no_scores}")]
    train, test = model.scores["train"], model.scores["test"]
    gap = generalization_gaps(train, test)
    error = _gap_error(model)
    clear = _gap_is_clear(model)
    what = "next tokens" if model.scores_tokens else "examples"
    doubt = "" if clear else " That is within two standard errors: no gap can be told from so few examples."
    text = (
        f"{train['accuracy']:.1%} of the training and {test['accuracy']:.1%} of the test {what} are right: a gap of "
        f"{100 * gap['accuracy']:+.1f} points (standard error {100 * error:.1f}); the loss is {train['loss']:.3f} and "
        f"{test['loss']:.3f}, a gap of {gap['loss']:+.3f}.{doubt}"
    )
    return [Finding("warning" if clear and gap["accuracy"] > 0 else "note", "accuracy", text)]


def _gap_error(model: ModelReport) -> float:
    errors = [accuracy_error(model.scores[role]["accuracy"], model.counts[role]) for role in ("train", "test")]
    return float(torch.stack(errors).norm())


def _gap_is_clear(model: ModelReport) -> bool:
    if not model.scores:
        return False
    gap = model.scores["train"]["accuracy"] - model.scores["test"]["accuracy"]
    return gap > SURE_GAP * _gap_error(model)


def _of_layers(layers: Mapping[str, Mapping[str, LayerDiagnostics]], left: Collection[str] = ROLES) -> list[Finding]:
    """What asks for a look, layer by layer; what many layers have in common once, the details are in their tables."""
    train = {name: by_role["train"] for name, by_role in layers.items()}
    said = []
    for word in ("constant", "highly redundant", "partly redundant", "diverse"):
        alike = {name: layer for name, layer in train.items() if redundancy_word(layer) == word}
        if len(alike) < _MANY:
            said += [_redundancy(name, layer) for name, layer in alike.items()]
        else:
            said.append(_alike(word, alike, len(train)))
    for find, what in (
        (_dead, "have dead units"),
        (_silent, "have units that are never above 0"),
        (_train_test, "differ between train and test"),
    ):
        each = {name: found for name, by_role in layers.items() if (found := find(name, **by_role)) is not None}
        if len(each) < _MANY:
            said += each.values()
        else:
            said.append(_together(list(each.values()), f"{len(each)} of {len(train)} layers {what}"))
    few = {
        name: roles
        for name, by_role in layers.items()
        if (roles := {r for r, d in by_role.items() if d.num_samples < SAMPLES_PER_UNIT * d.num_units})
    }
    if few:
        more = any(role in left for roles in few.values() for role in roles)
        text = (
            f"{_list(list(few))} gave fewer than {SAMPLES_PER_UNIT} samples for each unit. Ranks come out too low and "
            f"correlations too high; {'raise --max-examples to see' if more else 'there are no more examples'}."
        )
        said.append(Finding("note", "Few samples", text))
    return said


def _alike(word: str, layers: Mapping[str, LayerDiagnostics], total: int) -> Finding:
    """One finding for many layers of one word, the most redundant first."""
    level = "good" if word == "diverse" else "warning"
    about = f"{len(layers)} of {total} layers are {word}"
    if word == "constant":
        return Finding(level, about, f"{_list(list(layers))}: none of their units varies, they say nothing.")
    names = sorted(layers, key=lambda name: rank_share(layers[name])) if word != "diverse" else list(layers)
    shares = [rank_share(layer) for layer in layers.values()]
    correlations = [layer.mean_absolute_correlation for layer in layers.values()]
    text = (
        f"{_list(names)}: the effective rank is {min(shares):.0%} to {max(shares):.0%} of what is possible, the mean "
        f"|correlation| of two units {min(correlations):.2f} to {max(correlations):.2f}."
    )
    return Finding(level, about, text)


def _together(found: Sequence[Finding], about: str) -> Finding:
    """One finding for many of a kind: the layers, and the first in full; the worst level of all."""
    level = "warning" if any(finding.level == "warning" for finding in found) else "note"
    names = _list([finding.about for finding in found])
    return Finding(level, about, f"{names}. The first: {found[0].text}")


def _redundancy(name: str, layer: LayerDiagnostics) -> Finding:
    word = redundancy_word(layer)
    if word == "constant":
        return Finding("warning", name, f"None of the {layer.num_units:,} units varies: the layer says nothing.")
    dead = "" if layer.constant_units.any() else " No unit is dead."
    text = (
        f"{layer.num_units:,} units, {word}: the effective rank is {layer.effective_rank:.1f} "
        f"({rank_share(layer):.0%} of what is possible), the variance fills about {layer.participation_ratio:.1f} "
        "directions (participation ratio), the mean |correlation| of two units is "
        f"{layer.mean_absolute_correlation:.2f}, and {_count(near_copies(layer.correlation), layer.num_units)} have a "
        f"near copy.{dead}"
    )
    return Finding("good" if word == "diverse" else "warning", name, text)


def _dead(name: str, train: LayerDiagnostics, test: LayerDiagnostics) -> Finding | None:
    constant = int(train.constant_units.sum())
    if not constant:
        return None
    level = "warning" if constant / train.num_units >= MANY_DEAD else "note"
    return Finding(level, name, f"{_count(constant, train.num_units)} are dead: one value over all training examples.")


def _silent(name: str, train: LayerDiagnostics, test: LayerDiagnostics) -> Finding | None:
    silent = int(train.never_positive_units.sum())
    if (silent - int(train.constant_units.sum())) / train.num_units < MANY_DEAD:
        return None
    text = f"{_count(silent, train.num_units)} are never above 0 on the training examples: dead, if a ReLU follows."
    return Finding("note", name, text)


def _train_test(name: str, train: LayerDiagnostics, test: LayerDiagnostics) -> Finding | None:
    changes = []
    for field, label in _COMPARED.items():
        before, after = getattr(train, field), getattr(test, field)
        if before and math.isfinite(before) and math.isfinite(after) and abs(after / before - 1) > LARGE_CHANGE:
            changes.append(f"{label} {before:.3g} against {after:.3g} ({100 * (after / before - 1):+.0f} %)")
    return Finding("note", name, f"Train and test differ: {'; '.join(changes)}.") if changes else None


def _of_comparison(models: Sequence[ModelReport]) -> list[Finding]:
    """How each further model differs from the first, layer by layer."""
    first, *others = models
    said = []
    for other in others:
        if len(first.layers) >= _MANY:
            said.append(_most_changed(first, other))
        for name, layer in first.layers.items() if len(first.layers) < _MANY else ():
            a, b = layer["test"], other.layers[name]["test"]
            text = (
                f"On the test examples the effective rank is {b.effective_rank:.1f} of {b.num_units} against "
                f"{a.effective_rank:.1f} of {a.num_units} in {first.name}, the mean |correlation| "
                f"{b.mean_absolute_correlation:.3f} against {a.mean_absolute_correlation:.3f}, the scale-free "
                f"similarity {b.mean_similarity_normalised:.3f} against {a.mean_similarity_normalised:.3f}. "
                f"{_verdict(a, b, other, first)}{_at_one_gamma(a, b)}"
            )
            said.append(Finding("note", name, text, other.name))
        if first.scores and other.scores:
            a_score, b_score = first.scores["test"]["accuracy"], other.scores["test"]["accuracy"]
            errors = [accuracy_error(m.scores["test"]["accuracy"], m.counts["test"]) for m in (first, other)]
            error = float(torch.stack(errors).norm())
            chance = "" if abs(b_score - a_score) > SURE_GAP * error else ", so none can be told"
            said.append(
                Finding(
                    "note", "accuracy",
                    f"{b_score:.1%} of the test examples are right against {a_score:.1%} in {first.name} (standard "
                    f"error of the difference at most {100 * error:.1f} points{chance}). One run each says nothing "
                    "about methods: compare several seeds.",
                    other.name,
                )
            )  # fmt: skip
    return said


def _most_changed(first: ModelReport, other: ModelReport) -> Finding:
    """One finding for many layers: how many are more redundant in which model, and where the difference is largest."""
    pairs = {name: (layer["test"], other.layers[name]["test"]) for name, layer in first.layers.items()}
    verdicts = [_more_redundant(a, b, other, first) for a, b in pairs.values()]
    changes = {name: rank_share(b) - rank_share(a) for name, (a, b) in pairs.items()}
    known = [name for name, change in changes.items() if math.isfinite(change)]
    most = sorted(known, key=lambda name: -abs(changes[name]))[:3]
    ranks = [
        f"{name} ({pairs[name][1].effective_rank:.1f} against {pairs[name][0].effective_rank:.1f})" for name in most
    ]
    text = (
        f"By effective rank, |correlation| and similarity, {verdicts.count(other.name)} of them are more "
        f"redundant than in {first.name}, {verdicts.count(first.name)} less, and of {verdicts.count(None)} the three "
        f"do not agree. The largest differences in effective rank on the test examples: {', '.join(ranks) or 'none'}."
    )
    return Finding("note", f"{len(pairs)} layers", text, other.name)


def _at_one_gamma(a: LayerDiagnostics, b: LayerDiagnostics) -> str:
    """What the regulariser lowers, where both were measured at one gamma."""
    if a.gamma != b.gamma:
        return ""
    values = f"{b.mean_similarity:.3f} against {a.mean_similarity:.3f}"
    return f" At the same gamma, {a.gamma:.4g}, the similarity is {values}."


def _verdict(a: LayerDiagnostics, b: LayerDiagnostics, other: ModelReport, first: ModelReport) -> str:
    name = _more_redundant(a, b, other, first)
    if name is None:
        return "The three do not agree on which is the more redundant."
    return f"By all three, {name} is the more redundant."


def _more_redundant(a: LayerDiagnostics, b: LayerDiagnostics, other: ModelReport, first: ModelReport) -> str | None:
    """Which model, where all three measures agree."""
    signs = [
        math.copysign(1, difference)
        for difference in (
            rank_share(a) - rank_share(b),
            b.mean_absolute_correlation - a.mean_absolute_correlation,
            b.mean_similarity_normalised - a.mean_similarity_normalised,
        )
        if difference and math.isfinite(difference)
    ]
    if len(set(signs)) == 1 and len(signs) == 3:
        return other.name if signs[0] > 0 else first.name
    return None


def _count(count: int, total: int) -> str:
    return "no units" if count == 0 else f"{count:,} of {total:,} units ({count / total:.0%})"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _share(flags: torch.Tensor) -> float:
    return float(flags.double().mean())


def as_dicts(said: Sequence[Finding]) -> list[Mapping[str, str]]:
    """Plain JSON values."""
    return [{"level": f.level, "model": f.model, "about": f.about, "text": f.text} for f in said]
