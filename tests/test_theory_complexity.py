"""The bound of the Rademacher complexity, against the exact one over all signs."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from hf_diversity import theory

ACTIVATIONS = {  # with L and |phi(0)|
    "relu": (lambda z: np.maximum(z, 0), 1.0, 0.0),
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), 0.25, 0.5),
    "tanh": (np.tanh, 1.0, 0.0),
    "cos": (np.cos, 1.0, 1.0),
}


def exact_complexity(outputs):
    """E max_f |(1/N) sum_i s_i f(x_i)| over all 2^N signs; outputs (class, N)."""
    samples = outputs.shape[1]
    return np.mean([np.abs(outputs @ np.array(s)).max() / samples for s in product((-1, 1), repeat=samples)])


def random_class(generator, activation, depth, samples):
    """The outputs of 100 networks, and their constants."""
    phi, slope, phi_zero = ACTIVATIONS[activation]
    features, units = int(generator.integers(1, 4)), int(generator.integers(2, 5))
    x = generator.standard_normal((samples, features))
    c3, biases, outputs, c4, b = [0.0] * depth, [0.0] * depth, [], 0.0, 0.0
    for _ in range(100):
        a = x
        for layer in range(depth):
            w, bias = generator.standard_normal((units, a.shape[1])), generator.uniform(-0.5, 0.5, units)
            norms = np.sqrt((w**2).sum(1)) if layer == 0 else np.abs(w).sum(1)
            c3[layer], biases[layer] = max(c3[layer], norms.max()), max(biases[layer], np.abs(bias).max())
            a = phi(a @ w.T + bias)
        v, last = generator.choice([-1.0, 1.0], units), generator.uniform(-0.3, 0.3)
        c4, b = max(c4, np.abs(v).max()), max(b, abs(last))
        outputs.append(a @ v + last)
    c1 = float(np.sqrt((x**2).sum(1)).max())
    inputs = theory.BoundInputs(
        num_units=units, num_samples=samples, c1=c1, c3=tuple(c3), c4=c4, lipschitz=slope, phi_zero=phi_zero,
        hidden_bias=tuple(biases), output_bias=b,
    )  # fmt: skip
    return np.array(outputs), inputs


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_no_class_exceeds_its_complexity_and_its_output(activation, depth):
    generator = np.random.default_rng(depth)
    for samples in (1, 2, 5, 8):
        outputs, inputs = random_class(generator, activation, depth, samples)
        truth, bound = exact_complexity(outputs), theory.rademacher_bound(inputs)
        assert 0 < truth <= bound
        assert np.abs(outputs).max() <= theory.hinge_loss_bound(inputs).output


@pytest.mark.parametrize("samples", [1, 2, 5, 10])
def test_no_whole_class_of_relu_networks_exceeds_its_complexity(samples):
    """With one feature, sup over |w| <= C3 and |v| <= C4 is known: w = C3 or w = -C3, all units equal."""
    x = np.random.default_rng(samples).standard_normal(samples)
    truth = 0.0
    for signs in product((-1, 1), repeat=samples):
        positive = abs(sum(s * max(v, 0) for s, v in zip(signs, x, strict=True)))
        negative = abs(sum(s * max(-v, 0) for s, v in zip(signs, x, strict=True)))
        truth += 3 * 0.5 * 2.0 * max(positive, negative) / samples / 2**samples
    inputs = theory.BoundInputs(num_units=3, num_samples=samples, c1=float(np.abs(x).max()), c3=(2.0,), c4=0.5)
    assert 0.1 * theory.rademacher_bound(inputs) < truth <= theory.rademacher_bound(inputs)
    if samples == 1:  # the bound is exactly twice the truth, so less than half of it would be wrong
        assert truth > 0.499 * theory.rademacher_bound(inputs)


def test_the_parts_of_the_complexity_that_cannot_be_smaller():
    """N = 1: a unit that is always phi(0), and an output that is a bias, attain their parts of the bound."""
    cosines = theory.BoundInputs(num_units=2, num_samples=1, c1=1.0, c3=(0.0,), c4=1.0, phi_zero=1.0)
    assert exact_complexity(np.array([[2.0], [-2.0]])) == theory.rademacher_bound(cosines) == 2  # f = +-2 cos(0)
    biases = replace(cosines, c4=0.0, output_bias=0.7)
    assert exact_complexity(np.array([[0.7], [-0.7]])) == theory.rademacher_bound(biases)
