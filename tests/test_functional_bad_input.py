"""Every bad input says what came, why it fails and what to type."""

import warnings

import pytest
import torch

from hf_diversity import functional as F

GOOD = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
ON_ACTIVATIONS = {
    "similarity_matrix": lambda a: F.similarity_matrix(a, 1.0),
    "direct": lambda a: F.direct(a, 1.0),
    "det": lambda a: F.det(a, 1.0),
    "logdet": lambda a: F.logdet(a, 1.0),
    "activation_norm": F.activation_norm,
    "average_distance": F.average_distance,
}
WITH_GAMMA = {"similarity_matrix": F.similarity_matrix, "direct": F.direct, "det": F.det, "logdet": F.logdet}


@pytest.mark.parametrize("function", ON_ACTIVATIONS)
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (GOOD.tolist(), TypeError, r"activations is a list.*torch\.as_tensor"),
        (None, TypeError, "NoneType"),
        (GOOD.long(), TypeError, r"torch\.int64.*\.float\(\)"),
        (GOOD > 0, TypeError, r"torch\.bool"),
        (GOOD.cfloat(), TypeError, r"torch\.complex64"),
        (GOOD[0], ValueError, r"shape \(6,\).*samples by units"),
        (GOOD[None], ValueError, r"shape \(1, 4, 6\).*flatten"),
        (GOOD[:0], ValueError, "no sample"),
        (GOOD.where(GOOD < 0, torch.nan), ValueError, "NaN or infinite"),
        (GOOD.where(GOOD < 0, -torch.inf), ValueError, "NaN or infinite"),
    ],
)
def test_bad_activations(function, bad, error, message):
    with pytest.raises(error, match=message):
        ON_ACTIVATIONS[function](bad)


def test_the_number_of_bad_values_is_told():
    a = GOOD.clone()
    a[0, 0], a[1, 1] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="2 NaN or infinite value.*of 24"):
        F.direct(a, 1.0)


def test_large_finite_activations_are_no_error():
    a = torch.full((2, 3), 3e38) * torch.tensor([1.0, 0.99, 0.98])
    assert F.direct(a, 1.0) == 0


@pytest.mark.parametrize("function", WITH_GAMMA)
def test_a_single_unit_or_a_batch_of_one(function):
    with pytest.raises(ValueError, match=r"shape \(4, 1\).*wider layer"):
        WITH_GAMMA[function](GOOD[:, :1], 1.0)
    with pytest.raises(ValueError, match=r"a batch of 1.*drop_last=True"):
        WITH_GAMMA[function](GOOD[:1], 1.0)


def test_average_distance_needs_two_units():
    with pytest.raises(ValueError, match="wider layer"):
        F.average_distance(GOOD[:, :1])


@pytest.mark.parametrize("function", WITH_GAMMA)
@pytest.mark.parametrize(
    ("gamma", "error", "message"),
    [
        (0.0, ValueError, "gamma is 0.0.*type gamma=1.0"),
        (-1, ValueError, "gamma is -1"),
        (float("nan"), ValueError, "gamma is nan"),
        (float("inf"), ValueError, "gamma is inf"),
        ("median", TypeError, "gamma is 'median'"),
        (None, TypeError, "NoneType"),
        (True, TypeError, "bool"),
        (torch.tensor(0.0), ValueError, "gamma is 0.0"),
        (torch.tensor(float("nan")), ValueError, "gamma is nan"),
        (torch.tensor([1.0, 2.0]), TypeError, r"shape \(2,\)"),
        (torch.tensor(True), TypeError, r"torch\.bool"),
        (torch.tensor(1.0, requires_grad=True), ValueError, r"gamma\.detach\(\)"),
    ],
)
def test_bad_gamma(function, gamma, error, message):
    with pytest.raises(error, match=message):
        WITH_GAMMA[function](GOOD, gamma)


@pytest.mark.parametrize("reduction", ["none", "Sum", None, 2])
def test_unknown_reduction(reduction):
    with pytest.raises(ValueError, match=r"reduction is .*type reduction='mean' or reduction='sum'"):
        F.direct(GOOD, 1.0, reduction=reduction)


@pytest.mark.parametrize("function", [F.det_from_similarity, F.logdet_from_similarity])
def test_bad_similarity_or_jitter(function):
    s = F.similarity_matrix(GOOD, 1.0)
    for bad in (s[:2], s[0], torch.ones(0, 0)):
        with pytest.raises(ValueError, match="square matrix"):
            function(bad)
    with pytest.raises(TypeError, match="similarity is a ndarray"):
        function(s.numpy())
    with pytest.raises(TypeError, match="torch.int64"):
        function(s.long())
    for jitter in (-1e-4, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="jitter is .*type jitter=0.0001"):
            function(s, jitter=jitter)
    for jitter in ("small", True, None):
        with pytest.raises(TypeError, match="jitter is .*must be a number"):
            function(s, jitter=jitter)
    with pytest.raises(ValueError, match="not positive definite with jitter=0.0.*jitter=0.0001"):
        function(torch.ones(5, 5), jitter=0.0)
    with pytest.raises(ValueError, match="not positive definite"):
        function(s * torch.nan)


def test_det_warns_once_where_it_underflows(monkeypatch):
    monkeypatch.setattr(F, "_underflow_was_reported", False)
    a = torch.randn(16, 300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        F.det(GOOD, 10.0)  # no underflow, no warning
    with pytest.warns(RuntimeWarning, match="underflows.*use logdet"):
        assert F.det(a, 0.01) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        F.det(a, 0.01)


def test_non_finite_values_propagate_where_they_are_not_checked():
    """On CUDA nothing is read back; the kernels that serve it give NaN, never a wrong number."""
    from hf_diversity.kernels import pair_sum, similarity

    for units in (6, 100):
        a = torch.randn(4, units)
        a[1, 2] = torch.nan
        a.requires_grad_()
        value = pair_sum(a, 1.0)
        value.backward()
        assert value.isnan() and a.grad.isnan().any()
        assert similarity(a, 1.0)[2, 0].isnan()
        assert pair_sum(torch.randn(4, units), torch.tensor(torch.nan)).isnan()
