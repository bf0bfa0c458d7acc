"""SO and SRIP: against NumPy's singular values and central differences."""

import numpy as np
import oracles
import pytest
import torch

from hf_diversity import functional as F


def weight(*shape, seed=0):
    return 0.7 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def defect(matrix):
    """W^T W - I of the source, whose W has a column for each unit."""
    columns = matrix.reshape(len(matrix), -1).T
    return columns.T @ columns - np.eye(columns.shape[1])


def frobenius(matrix):
    return float((defect(matrix) ** 2).sum())


def spectral(matrix):
    return float(np.linalg.svd(defect(matrix), compute_uv=False)[0])


@pytest.mark.parametrize("shape", [(3, 5), (6, 2), (4, 2, 3, 3)])
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("name", "oracle"), [("orthogonality", frobenius), ("srip", spectral)])
def test_value_and_gradient(shape, dtype, relative, name, oracle):
    leaf = weight(*shape).to(dtype).requires_grad_()
    value = getattr(F, name)(leaf, iterations=2000) if name == "srip" else F.orthogonality(leaf)
    value.backward()
    exact = leaf.detach().double().numpy()
    assert value.dtype == dtype and value.item() == pytest.approx(oracle(exact), rel=relative)
    for seed in (1, 2):
        direction = weight(*shape, seed=seed).numpy()
        expected = oracles.slope(oracle, exact, direction)
        assert abs(expected) > 1e-2
        found = float((leaf.grad.double() * torch.from_numpy(direction)).sum())
        assert found == pytest.approx(expected, rel=100 * relative, abs=1e-5)


def test_srip_is_a_lower_bound_that_grows_with_the_iterations():
    w = weight(8, 8)
    values = [F.srip(w, iterations=n).item() for n in (1, 2, 5, 20)]
    assert values == sorted(values) and values[0] < values[-1]
    assert values[-1] <= spectral(w.numpy()) * (1 + 1e-12)


def test_srip_by_hand():
    """A = diag(3, 0) for W = diag(2, 1): one product finds the first axis, whatever the start."""
    w = torch.diag(torch.tensor([2.0, 1.0])).requires_grad_()
    value = F.srip(w)
    value.backward()
    assert value.item() == pytest.approx(3)
    torch.testing.assert_close(w.grad, torch.tensor([[4.0, 0], [0, 0]]))  # d(w^2 - 1)/dw = 2 w


def test_orthonormal_rows_are_the_minimum():
    rows = torch.linalg.qr(weight(9, 4))[0].T
    assert F.orthogonality(rows).item() < 1e-25 and F.srip(rows).item() < 1e-12


def test_srip_leaves_the_global_random_state_alone_and_follows_its_seed():
    state = torch.get_rng_state()
    w = weight(6, 6)
    first, again, other = F.srip(w, seed=1), F.srip(w, seed=1), F.srip(w, seed=2)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_autocast_does_not_reach_in():
    w = weight(6, 6).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = F.srip(w), F.orthogonality(w)
    assert torch.equal(inside[0], F.srip(w)) and torch.equal(inside[1], F.orthogonality(w))


def test_bad_input():
    with pytest.raises(ValueError, match=r"\(5,\)"):
        F.orthogonality(torch.ones(5))
    with pytest.raises(TypeError, match="list"):
        F.srip([[1.0]])
    with pytest.raises(ValueError, match="iterations is 0"):
        F.srip(weight(2, 2), iterations=0)
