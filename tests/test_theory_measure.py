"""Constants measured from networks and data, against plain loops over their numbers."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from hf_diversity import theory

ACTIVATIONS = {
    "relu": (nn.ReLU(), lambda z: np.maximum(z, 0)),
    "tanh": (nn.Tanh(), np.tanh),
    "sigmoid": (nn.Sigmoid(), lambda z: 1 / (1 + np.exp(-z))),
    "silu": (nn.SiLU(), lambda z: z / (1 + np.exp(-z))),
}


def network(sizes, activation, bias=True):
    layers = []
    for number, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
        layers.append(nn.Linear(fan_in, fan_out, bias=bias))
        if number < len(sizes) - 2:
            layers.append(activation)
    return nn.Sequential(*layers)


def measured(model, x, activation, batch=7, **options):
    linears = [m for m in model if isinstance(m, nn.Linear)]
    return theory.measure_inputs(
        model, x.split(batch), hidden=linears[:-1], output=linears[-1], activation=activation, **options
    )


def by_hand(model, x, phi):
    """The hidden activations, row norms and largest biases, number by number."""
    linears = [m for m in model if isinstance(m, nn.Linear)]
    a, norms, biases = x.double().numpy(), [], []
    for number, linear in enumerate(linears[:-1]):
        w, b = linear.weight.detach().double().numpy(), linear.bias.detach().double().numpy()
        norms.append(max(math.sqrt(sum(v * v for v in row)) if number == 0 else sum(map(abs, row)) for row in w))
        biases.append(max(map(abs, b)))
        a = phi(a @ w.T + b)
    return a, norms, biases


def distances(a):
    units = a.shape[1]
    return [sum((p - q) ** 2 for p in row for q in row) / (2 * units * (units - 1)) for row in np.abs(a)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(5, 12, 1), (5, 12, 8, 3)])
def test_every_constant(activation, sizes):
    module, phi = ACTIVATIONS[activation]
    model, x = network(sizes, module), 2 * torch.randn(40, sizes[0])
    inputs = measured(model, x, module)
    a, norms, biases = by_hand(model, x, phi)
    d = distances(a)
    assert (inputs.num_units, inputs.num_samples) == (sizes[-2], 40)
    assert inputs.c1 == pytest.approx(max(math.sqrt(sum(float(v) ** 2 for v in row)) for row in x), rel=1e-6)
    assert inputs.c3 == pytest.approx(norms, rel=1e-9) and inputs.hidden_bias == pytest.approx(biases, rel=1e-9)
    assert inputs.c4 == model[-1].weight.abs().max().item()
    assert inputs.output_bias == model[-1].bias.abs().max().item()
    assert inputs.phi_zero == (0.5 if activation == "sigmoid" else 0)
    assert inputs.c5_measured == pytest.approx(np.abs(a).max(), rel=1e-9)
    assert inputs.c5_measured <= inputs.c5_formula
    assert inputs.d_min**2 == pytest.approx(min(d), rel=1e-9) and inputs.probability == 1
    assert min(d) > 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(3, 6, 2), (3, 7, 4, 2)])
@pytest.mark.parametrize("c5", ["formula", "measured"])
def test_the_output_of_the_network_is_within_its_bounds(activation, sizes, c5):
    module, _ = ACTIVATIONS[activation]
    for seed in range(20):
        torch.manual_seed(seed)
        model, x = network(sizes, module), torch.randn(10, sizes[0])
        inputs = measured(model, x, module)
        for constant in ("sqrt_j", "bhatia_davis"):
            bound = theory.hinge_loss_bound(inputs, constant=constant, c5=c5).output
            assert 0 < model(x).abs().max().item() <= bound


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Sigmoid(), nn.Tanh(), nn.Softplus(), nn.GELU(), nn.SiLU()])
def test_the_known_lipschitz_constants_are_the_largest_slopes(activation):
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(activation(z).sum(), z)
    model, x = network((3, 4, 1), activation), torch.randn(5, 3)
    known = measured(model, x, activation).lipschitz
    assert slope.abs().max().item() <= known <= 1.001 * slope.abs().max().item()


def test_the_quantile_of_the_distance():
    model, x = network((4, 20, 1), nn.ReLU()), torch.randn(50, 4)
    d = sorted(distances(by_hand(model, x, lambda z: np.maximum(z, 0))[0]))
    assert len(set(d)) == 50
    for quantile, below in ((0.0, 0), (0.019, 0), (0.02, 1), (0.1, 5), (0.5, 25), (0.999, 49)):
        inputs = measured(model, x, nn.ReLU(), quantile=quantile)
        assert inputs.d_min**2 == pytest.approx(d[below], rel=1e-9)
        assert inputs.probability == pytest.approx(1 - below / 50)
        assert 1 - inputs.probability <= quantile + 1e-12


def test_equal_distances_count_together():
    model = network((2, 20, 1), nn.ReLU())
    x = torch.tensor([[1.0, 0.0]]).repeat(6, 1)
    inputs = measured(model, x, nn.ReLU(), quantile=0.5)
    assert inputs.probability == 1 and inputs.d_min > 0


class Named(nn.Module):
    """Takes what the tests pass, and has dropout, which evaluation switches off."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(4, 6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 2, bias=False)

    def forward(self, inputs, labels=None):
        return self.head(self.drop(torch.relu_(self.hidden(inputs))))


def test_names_and_every_kind_of_batch():
    model, x = Named(), torch.randn(12, 4)
    model.drop.eval()
    options = {"output": "head", "activation": nn.ReLU(inplace=True)}
    expected = theory.measure_inputs(model, [x], hidden="hidden", **options)
    assert expected.output_bias == 0 and expected.num_samples == 12
    y = torch.zeros(6)
    for batches in (
        [(x[:6], y), (x[6:], y)],
        [{"inputs": x[:6], "labels": y}, {"inputs": x[6:], "labels": y}],
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=5),
    ):
        assert theory.measure_inputs(model, batches, hidden=["hidden"], **options) == expected
    assert model.training and not model.drop.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_networks_of_other_precision(dtype):
    model, x = network((4, 16, 16, 1), nn.ReLU()).to(dtype), torch.randn(30, 4).to(dtype)
    wide = network((4, 16, 16, 1), nn.ReLU()).double()
    wide.load_state_dict(model.state_dict())
    assert measured(model, x, nn.ReLU()) == measured(wide, x.double(), nn.ReLU())


def test_wrapped_models_take_the_names_of_the_model_inside():
    model, x = Named(), torch.randn(12, 4)
    options = {"hidden": "hidden", "output": "head", "activation": nn.ReLU()}
    inside = theory.measure_inputs(model, [x], **options)
    assert theory.measure_inputs(nn.DataParallel(model), [x], **options) == inside


# ---- bad input

X = torch.randn(8, 4)


def test_networks_of_another_form_are_refused():
    normed = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 1))
    with pytest.raises(ValueError, match=r"follows hidden layer '0' is not activation\(0\(x\)\)"):
        theory.measure_inputs(normed, [X], hidden="0", output="3", activation=nn.ReLU())
    deep = network((4, 6, 6, 1), nn.ReLU())
    with pytest.raises(ValueError, match="all its hidden layers in order"):
        theory.measure_inputs(deep, [X], hidden="0", output="4", activation=nn.ReLU())
    with pytest.raises(ValueError, match="give the network's activation"):
        theory.measure_inputs(deep, [X], hidden=["0", "2"], output="4", activation=nn.Tanh())
    with pytest.raises(ValueError, match="follows hidden layer"):
        theory.measure_inputs(deep, [X], hidden=["2", "0"], output="4", activation=nn.ReLU())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"hidden": "fc1"}, ValueError, "'fc1' matches no module.*nearest names"),
        ({"hidden": "*"}, ValueError, r"'\*' matches 3 modules of Sequential; name just one"),
        ({"hidden": nn.Linear(4, 6)}, ValueError, "matches 0 modules"),
        ({"hidden": "1"}, TypeError, "'1' is ReLU, and the bounds are for nn.Linear"),
        ({"hidden": []}, ValueError, "hidden is empty"),
        ({"output": "1"}, TypeError, "output: '1' is ReLU"),
        ({"activation": torch.relu}, ValueError, "Lipschitz constant of the activation.*type lipschitz=1.0"),
        ({"activation": nn.LeakyReLU(3.0)}, ValueError, "Lipschitz constant"),
        ({"lipschitz": -1.0}, ValueError, "lipschitz is -1.0"),
        ({"lipschitz": 0.01}, ValueError, "c5_measured is .*check c1, c3, lipschitz"),
        ({"quantile": 1.0}, ValueError, r"quantile is 1.0: it must be in \[0, 1\)"),
        ({"quantile": -0.1}, ValueError, "quantile is -0.1"),
        ({"dataloader": []}, ValueError, "no batch"),
        ({"dataloader": [X[:0]]}, ValueError, "'0' received no sample"),
        ({"dataloader": [X * torch.nan]}, ValueError, "NaN"),
        ({"dataloader": [["text"]]}, TypeError, "a batch is a list without a tensor"),
        ({"dataloader": [X[None]]}, ValueError, r"'0' received \(1, 8, 4\).*flatten or pool"),
    ],
)
def test_bad_arguments(changes, error, message):
    options = {"dataloader": [X], "hidden": "0", "output": "2", "activation": nn.ReLU()} | changes
    model = network((4, 6, 1), nn.ReLU())
    with pytest.raises(error, match=message):
        theory.measure_inputs(model, **options)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_layer_that_runs_twice_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.head = nn.Linear(4, 4), nn.Linear(4, 1)

        def forward(self, x):
            return self.head(torch.relu(self.hidden(torch.relu(self.hidden(x)))))

    with pytest.raises(ValueError, match=r"received \(8, 4\) and \(8, 4\).*run once"):
        theory.measure_inputs(Twice(), [X], hidden="hidden", output="head", activation=nn.ReLU())


def test_any_activation_with_its_slope():
    model = network((4, 6, 1), nn.LeakyReLU(0.5))
    inputs = theory.measure_inputs(model, [X], hidden="0", output="2", activation=nn.LeakyReLU(0.5), lipschitz=1.0)
    assert inputs.lipschitz == 1.0 and model(X).abs().max() <= theory.hinge_loss_bound(inputs, c5="measured").output
