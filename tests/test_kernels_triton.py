"""The Triton kernels against the float64 oracles: on a GPU where there is one, and by Triton's interpreter on the CPU.

The interpreter has to be chosen before the kernels are imported, so the CPU tests run in a process of their own:
`test_kernels_in_the_interpreter` starts this file again with TRITON_INTERPRET=1.
"""

import os
import subprocess
import sys

import numpy as np
import oracles
import pytest
import torch

from hf_diversity import functional as F
from hf_diversity.kernels import autograd, backend, dispatch

triton = pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
    else:  # the automatic choice, made to choose Triton for CPU tensors
        for module in (autograd, dispatch):
            monkeypatch.setattr(module, "triton_serves", lambda activations: True)
    return request.param


def rows(kind, samples, units):
    rng = np.random.default_rng(3)
    a = rng.standard_normal((samples, units))
    if kind == "relu":
        a = np.maximum(a, 0)
    elif kind == "cauchy":  # rows of both methods
        a = rng.standard_cauchy((samples, units))
        a[0] = rng.standard_normal(units)
    elif kind == "offset":
        a += 1e4
    elif kind == "outlier":
        a[-1, units // 2] = 1e5
    elif kind == "constant":
        a[:] = 2.5
    return torch.from_numpy(a)


@pytest.mark.skipif(
    triton.__version__ < "3.5" and np.lib.NumpyVersion(np.__version__) >= "2.4.0",
    reason="the interpreter of older Triton takes arrays of one number for numbers, which NumPy 2.4 refuses",
)
def test_kernels_in_the_interpreter():
    if INTERPRETED:
        pytest.skip("already inside")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
    last = done.stdout.strip().splitlines()[-1]
    assert "failed" not in last and int(last.split()[0]) >= 40, last  # tests did run


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.1, 4.0])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (4, 65), (2, 300)])
@pytest.mark.parametrize("kind", ["normal", "relu", "cauchy", "offset", "outlier", "constant"])
def test_pair_sum(device, kind, shape, gamma, dtype):
    a = rows(kind, *shape).to(dtype)
    leaf = a.clone().to(device).requires_grad_()
    value = autograd.pair_sum(leaf, gamma)
    value.backward()
    expected, expected_gradient = oracles.pair_sum(a.numpy(), gamma)
    samples, units = shape
    relative = 1e-12 if dtype == torch.float64 else 3e-6
    assert value.dtype == dtype
    assert abs(value.item() - expected) <= relative * (expected + units)
    scale = max(np.abs(expected_gradient).max(), gamma**0.5 / samples)
    assert np.abs(leaf.grad.cpu().numpy() - expected_gradient).max() <= 10 * relative * scale
    torch.testing.assert_close(autograd.pair_sum(leaf.detach(), gamma), value.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 1025), (1, 2100)])
def test_pair_sum_over_several_blocks(device, shape):
    a = rows("normal", *shape).float()
    leaf = a.clone().to(device).requires_grad_()
    value = autograd.pair_sum(leaf, torch.tensor(1.0, device=device))
    value.backward()
    expected, expected_gradient = oracles.pair_sum(a.numpy(), 1.0)
    assert abs(value.item() - expected) <= 3e-6 * expected
    error = np.abs(leaf.grad.cpu().numpy() - expected_gradient).max()
    assert error <= 3e-5 * np.abs(expected_gradient).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 3), (5, 64), (6, 70), (9, 33)])
def test_similarity(device, shape, dtype):
    a = rows("normal", *shape).to(dtype)
    upstream = torch.from_numpy(np.random.default_rng(0).standard_normal((shape[1], shape[1])))
    leaf = a.clone().to(device).requires_grad_()
    s = autograd.similarity(leaf, 0.7)
    (s * upstream.to(device)).sum().backward()
    assert torch.equal(s, s.T) and torch.equal(s.diagonal(), torch.ones_like(s.diagonal()))
    relative = 1e-12 if dtype == torch.float64 else 3e-6
    np.testing.assert_allclose(s.detach().cpu(), oracles.similarity(a, 0.7), rtol=0, atol=relative)
    expected = oracles.similarity_gradient(a, 0.7, upstream.numpy())
    assert np.abs(expected).max() > 0
    assert np.abs(leaf.grad.cpu().numpy() - expected).max() <= 10 * relative * np.abs(expected).max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(device, dtype):
    a = rows("normal", 3, 100).to(dtype).to(device).requires_grad_()
    exact = a.detach().double().requires_grad_()
    for function in (lambda x: F.direct(x, 1.0), lambda x: F.logdet(x, 5.0)):
        value, expected = function(a), function(exact)
        (gradient,) = torch.autograd.grad(value, a)
        (expected_gradient,) = torch.autograd.grad(expected, exact)
        assert value.dtype == torch.float32 and gradient.dtype == dtype
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=0)
        assert (gradient.double() - expected_gradient).abs().max() <= 0.01 * expected_gradient.abs().max()


def test_nan_stays_nan(device):
    a = rows("normal", 3, 80).float()
    a[1, 1] = torch.nan
    leaf = a.clone().to(device).requires_grad_()
    value = autograd.pair_sum(leaf, 1.0)
    value.backward()
    assert value.isnan() and leaf.grad[1].isnan().any() and leaf.grad[0].isfinite().all()


def test_the_choice_is_logged_once(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    backend._triton_works.cache_clear()
    with caplog.at_level("INFO", logger=backend.__name__):
        for _ in range(2):
            assert backend._triton_works(torch.device("cuda:0"))
    assert [record.getMessage() for record in caplog.records] == ["diversity on cuda:0 by Triton kernels"]
    backend._triton_works.cache_clear()


def test_without_triton_the_torch_form_serves(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "triton", None)  # importing it fails
    backend._triton_works.cache_clear()
    with caplog.at_level("INFO", logger=backend.__name__):
        assert not backend._triton_works(torch.device("cuda:0"))
    assert "pip install triton" in caplog.text
    backend._triton_works.cache_clear()
    assert not backend.triton_serves(torch.randn(2, 3))


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_that_is_not_there():
    """Triton brings its assembler along: code for sm_90 can be generated anywhere."""
    if INTERPRETED:
        pytest.skip("the interpreter replaces the compiler")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from hf_diversity.kernels import triton_direct, triton_similarity

    types = {"units": "i32", "parts": "i32", "samples": "i32", "most": "i32", "delta": "fp32", "scale": "fp32"}
    for kernel, constants in (
        (triton_direct._sums_kernel, {"block": 1024}),
        (triton_direct._gradient_kernel, {"block": 1024, "with_gradient": True}),
        (triton_direct._gradient_kernel, {"block": 1024, "with_gradient": False}),
        (triton_direct._exact_kernel, {"block": 64, "with_gradient": True}),
        (triton_similarity._forward_kernel, {"block": 64}),
        (triton_similarity._backward_kernel, {"block": 32, "some": 4}),
    ):
        signature = {name: "constexpr" if name in constants else types.get(name, "*fp32") for name in kernel.arg_names}
        compiled = compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
        assert len(compiled.asm["cubin"]) > 0
