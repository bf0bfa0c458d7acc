"""The regulariser against definitions written out in float64."""

import oracles
import pytest
import torch

from hf_diversity.citations import BY_MEASURE
from hf_diversity.config import DiversityConfig
from hf_diversity.registry import MEASURES
from hf_diversity.regularizer import DiversityRegularizer, NonFiniteRegularizerError
from hf_diversity.weight_regularizer import WeightRegularizer


def similarity_by_definition(rows, gamma):
    """S of SPEC section 1, differentiable, float64."""
    rows = rows.double()
    units = rows.shape[1]
    entries = [
        torch.exp(-gamma * (rows[:, n] - rows[:, m]) ** 2).sum() / len(rows)
        for n in range(units)
        for m in range(units)
    ]
    return torch.stack(entries).reshape(units, units)


def penalty_by_definition(rows, config, gamma):
    similarity, units = similarity_by_definition(rows, gamma), rows.shape[1]
    off_diagonal = similarity.sum() - similarity.trace()
    jittered = similarity + config.jitter * torch.eye(units, dtype=torch.float64)
    value = {
        "direct": off_diagonal / (units * (units - 1)) if config.reduction == "mean" else off_diagonal,
        "det": -torch.det(jittered),
        "logdet": -torch.logdet(jittered),
        "none": torch.zeros((), dtype=torch.float64),
    }[config.measure]
    norm = sum((row.double() ** 2).sum() for row in rows) / len(rows)
    return config.diversity_weight * value + config.activation_weight * norm, value, norm


CASES = [
    {"measure": "direct"}, {"measure": "direct", "reduction": "sum"}, {"measure": "det"}, {"measure": "logdet"},
    {"measure": "logdet", "jitter": 0.01}, {"measure": "none"},
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_and_gradient(case, dtype):
    config = DiversityConfig(gamma=0.8, diversity_weight=0.7, activation_weight=0.2, **case)
    rows = torch.randn(12, 5).to(dtype).requires_grad_()
    output = DiversityRegularizer(config)({"layer": rows}, 0)
    output.penalty.backward()
    exact_rows = rows.detach().double().requires_grad_()
    penalty, value, norm = penalty_by_definition(exact_rows, config, 0.8)
    penalty.backward()
    assert exact_rows.grad.abs().max() > 1e-3
    tight = {torch.float64: 1e-10, torch.float32: 1e-4}.get(dtype, 2e-2)
    assert rows.grad.dtype == dtype
    torch.testing.assert_close(rows.grad.double(), exact_rows.grad, rtol=tight, atol=tight * 0.1)
    precise = 1e-10 if dtype == torch.float64 else 1e-5
    assert output.penalty.item() == pytest.approx(penalty.item(), rel=precise)
    parts = output.layers["layer"]
    assert float(parts.activation_norm) == pytest.approx(float(norm), rel=precise)
    if case["measure"] != "none":
        assert float(parts.diversity) == pytest.approx(float(value), rel=precise)
        assert float(parts.gamma) == pytest.approx(0.8)
    else:
        assert parts.diversity is None and parts.gamma is None


@pytest.mark.parametrize("measure", ["direct", "det", "logdet"])
def test_autocast_changes_nothing(measure):
    config = DiversityConfig(measure=measure, gamma=0.8, activation_weight=0.2)
    rows = torch.randn(12, 5)
    plain = DiversityRegularizer(config)({"layer": rows}, 0).penalty
    with torch.autocast("cpu", torch.bfloat16):
        cast = DiversityRegularizer(config)({"layer": rows}, 0).penalty
    assert torch.equal(plain, cast) and cast.dtype == torch.float32


def test_several_layers_are_summed_and_named():
    config = DiversityConfig(gamma=1.0, diversity_weight=0.5, activation_weight=0.1)
    rows = {"a": torch.randn(6, 4), "b": torch.randn(9, 3)}
    output = DiversityRegularizer(config)(rows, 0)
    alone = [DiversityRegularizer(config)({name: r}, 0).penalty for name, r in rows.items()]
    torch.testing.assert_close(output.penalty, alone[0] + alone[1])
    assert list(output.layers) == ["a", "b"]


def test_median_gamma_makes_j_independent_of_scale():
    rows = torch.randn(40, 10)
    values = [
        float(DiversityRegularizer(DiversityConfig())({"a": rows * scale}, 0).layers["a"].diversity)
        for scale in (1e-3, 1.0, 1e3)
    ]
    assert values[0] == pytest.approx(values[1], rel=0.02) and values[2] == pytest.approx(values[1], rel=0.02)


def test_direct_over_shards_is_the_weighted_mean():
    config = DiversityConfig(gamma=0.7)
    rows = torch.randn(10, 6, dtype=torch.float64)
    value = lambda r: float(DiversityRegularizer(config)({"a": r}, 0).layers["a"].diversity)  # noqa: E731
    assert value(rows) == pytest.approx((3 * value(rows[:3]) + 7 * value(rows[3:])) / 10, rel=1e-12)


def test_a_weight_of_zero_costs_no_gradient_but_is_reported():
    rows = torch.randn(6, 4, requires_grad=True)
    output = DiversityRegularizer(DiversityConfig(gamma=1.0, diversity_weight=0.0, activation_weight=1.0))(
        {"a": rows}, 0
    )
    output.penalty.backward()
    torch.testing.assert_close(rows.grad, 2 * rows.detach() / 6)
    assert 0 < float(output.layers["a"].diversity) < 1


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        (torch.ones(4, 3, dtype=torch.int64), TypeError, "layer 'fc' gives torch.int64"),
        (torch.ones(4, 1), ValueError, "layer 'fc' has 1 unit"),
        (torch.ones(1, 3), ValueError, "layer 'fc' has 1 sample"),
        (torch.ones(0, 3), ValueError, "layer 'fc' has 0 samples after the attention mask"),
    ],
)
def test_bad_rows(rows, error, words):
    with pytest.raises(error, match=words):
        DiversityRegularizer(DiversityConfig(gamma=1.0))({"fc": rows}, 0)


@pytest.mark.parametrize("measure", ["direct", "det", "logdet", "none"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_non_finite_names_layer_step_and_cause(measure, bad):
    rows = torch.randn(6, 4)
    rows[2, 1] = bad
    config = DiversityConfig(measure=measure, gamma=1.0, activation_weight=0.1)
    with pytest.raises(NonFiniteRegularizerError, match="layer 'fc' is not finite at step 5.*mean squared norm"):
        DiversityRegularizer(config)({"fc": rows}, 5).check_finite(5)


def test_singular_similarity_without_jitter_says_so():
    config = DiversityConfig(measure="logdet", gamma=1.0, jitter=0.0)
    with pytest.raises(NonFiniteRegularizerError, match="layer 'fc' is not finite at step 2.*jitter"):
        DiversityRegularizer(config)({"fc": torch.randn(6, 1).expand(6, 4)}, 2).check_finite(2)


def test_config_and_citation_are_attached():
    regularizer = DiversityRegularizer(DiversityConfig(measure="logdet"))
    assert regularizer.get_config_dict()["measure"] == "logdet"
    assert "WLD-Reg" in regularizer.citation
    assert DiversityRegularizer(DiversityConfig(measure="none", activation_weight=1.0)).citation is None
    assert "Variance-Covariance" in DiversityRegularizer(DiversityConfig(measure="vcreg")).citation
    assert "Orthogonality" in WeightRegularizer(DiversityConfig(measure="srip")).citation
    assert {*BY_MEASURE} == {*MEASURES} - {"none"}, "every measure has a source"


@pytest.mark.parametrize("measure", ["direct", "logdet"])
def test_scale_invariant_is_the_gradient_with_a_gamma_that_follows_the_mean_square_distance(measure):
    a = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    values, gradients = [], []
    for invariant in (False, True):
        regularizer = DiversityRegularizer(
            DiversityConfig(measure=measure, diversity_weight=1.0, scale_invariant=invariant)
        )
        leaf = a.clone().requires_grad_()
        output = regularizer({"a": leaf}, 0)
        output.penalty.backward()
        values.append(output.penalty.item())
        gradients.append(leaf.grad)
    gamma = float(output.layers["a"].gamma)
    spread = a.numpy().var(axis=1).mean()

    def following(x):
        similarity = oracles.similarity(x, gamma * spread / x.var(axis=1).mean())
        if measure == "logdet":
            return -oracles.log_det(similarity, 1e-4)
        return (similarity.sum() - len(similarity)) / (len(similarity) * (len(similarity) - 1))

    assert values[0] == values[1] == pytest.approx(following(a.numpy()), rel=1e-6)
    for seed in (1, 2):
        direction = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        expected = oracles.slope(following, a.numpy(), direction.numpy())
        assert float((gradients[1] * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-8)
    # Growing all distances lowers J at a constant gamma, and is no part of the other gradient
    centred = a - a.mean(1, keepdim=True)
    assert float((gradients[0] * centred).sum()) < -1e-3
    assert abs(float((gradients[1] * centred).sum())) < 1e-12


def test_scale_invariant_needs_a_gamma_that_follows():
    for values in ({"gamma": 1.0}, {"measure": "decov"}, {"measure": "none", "activation_weight": 1.0}):
        with pytest.raises(ValueError, match='scale_invariant.*type gamma="median"'):
            DiversityConfig(scale_invariant=True, **values)
    with pytest.raises(TypeError, match="scale_invariant is 1"):
        DiversityConfig(scale_invariant=1)


def test_scale_invariant_with_units_that_are_all_equal_is_finite():
    """A ReLU layer that dies: as without the option, J is 1 and nothing is pulled."""
    regularizer = DiversityRegularizer(DiversityConfig(diversity_weight=1.0, scale_invariant=True))
    regularizer({"a": torch.randn(8, 4)}, 0)
    dead = torch.zeros(8, 4, requires_grad=True)
    output = regularizer({"a": dead}, 1)
    output.penalty.backward()
    assert output.penalty.item() == 1.0 and not dead.grad.any()


def test_scale_invariant_in_half_precision_takes_the_growth_out():
    rows = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    pulls = []
    for invariant in (False, True):
        leaf = rows.clone().requires_grad_()
        config = DiversityConfig(diversity_weight=1.0, scale_invariant=invariant)
        DiversityRegularizer(config)({"a": leaf}, 0).penalty.backward()
        centred = rows.float() - rows.float().mean(1, keepdim=True)
        pulls.append(abs(float((leaf.grad.float() * centred).sum())))
    assert pulls[1] < 1e-3 * pulls[0]
