"""Direct against its peers: one shape in depth, curves in D and N, sweeps of gamma and of outliers."""

import functools
import math

import peers
from report import Row
from timing import available_memory, cauchy, forward_backward, interleaved, normal

from hf_diversity import functional
from hf_diversity.kernels import tiles

SAMPLES, UNITS = 128, 2048
LOOP_SAMPLES = 16  # the row loop is linear in N
NAIVE_BYTES = 14e9  # what the naive form takes at 128 x 2048, and some


def direct(activations, gamma=1.0):
    return functional.direct(activations, gamma, reduction="sum")


def against_peers(rounds, quick):
    """Direct 128 x 2048 against naive, tiles and the row loop.

    The naive form is measured once, at full size, where memory allows: its time is mostly that of taking new pages,
    which 16 samples (used if `quick`) do not show.
    """
    a, gamma = normal(SAMPLES, UNITS), 1.0
    naive_samples = 16 if quick or available_memory() < NAIVE_BYTES else SAMPLES

    def own_tiles():
        tiles.pair_sum_tiles(a, gamma, a.new_empty(a.shape))

    seconds = interleaved(
        {
            "direct": forward_backward(direct, a),
            "naive": forward_backward(lambda x: peers.naive(x, gamma), a[:naive_samples]),
            "exact exp2 tiles": own_tiles,
            "exact tiles, torch.exp": forward_backward(lambda x: peers.exact_tiles(x, gamma), a),
            "row loop, autograd": forward_backward(lambda x: peers.row_loop(x, gamma), a[:LOOP_SAMPLES]),
        },
        max(5, rounds // 2),
        slow=("naive",),
        slow_rounds=1,
    )
    seconds["naive"] *= SAMPLES / naive_samples
    seconds["row loop, autograd"] *= SAMPLES / LOOP_SAMPLES
    own = seconds["direct"]
    shape = f"Direct {SAMPLES}x{UNITS}"
    return [
        Row(shape, 1e3 * own, "ms"),
        Row(f"{shape} against naive ({_scaled(naive_samples)})", seconds["naive"] / own, "x", at_least=1500),
        Row(f"{shape} against exact exp2 tiles", seconds["exact exp2 tiles"] / own, "x", at_least=30),
        Row(f"{shape} against exact tiles with torch.exp", seconds["exact tiles, torch.exp"] / own, "x"),
        Row(
            f"{shape} against a row loop with autograd ({_scaled(LOOP_SAMPLES)})",
            seconds["row loop, autograd"] / own,
            "x",
        ),
    ]


def _scaled(samples):
    return "full size" if samples == SAMPLES else f"{samples} samples, scaled"


def gamma_and_outliers(rounds):
    """The cost of sharper kernels and of heavier tails."""
    a = normal(SAMPLES, UNITS)
    cases = {gamma: forward_backward(functools.partial(direct, gamma=gamma), a) for gamma in (0.1, 1.0, 10.0, 100.0)}
    cases["cauchy"] = forward_backward(direct, cauchy(SAMPLES, UNITS))
    one_outlier = a.clone()
    one_outlier[5, 7] = 1e4
    cases["outlier"] = forward_backward(direct, one_outlier)
    seconds = interleaved(cases, rounds)
    return [
        *(Row(f"gamma = {gamma:g}", 1e3 * seconds[gamma], "ms") for gamma in (0.1, 1.0, 10.0, 100.0)),
        Row("gamma = 100 over gamma = 0.1", seconds[100.0] / seconds[0.1], "x", at_most=6.5),
        Row("Cauchy activations over normal", seconds["cauchy"] / seconds[1.0], "x", at_most=12),
        Row("one row with an outlier of 1e4 over none", seconds["outlier"] / seconds[1.0], "x"),
    ]


def curves(rounds):
    """Doubling curves, and DeCov and VICReg beside Direct.

    Returns:
        Rows; {"width": {method: {D: seconds}}, "samples": {method: {N: seconds}}}.
    """
    methods = {
        "Direct": direct,
        "DeCov, covariance": peers.decov,
        "DeCov, Gram": peers.decov_gram,
        "VICReg covariance": peers.vicreg_covariance,
        "exact tiles, torch.exp": lambda a: peers.exact_tiles(a, 1.0),
        "naive": lambda a: peers.naive(a, 1.0),
    }
    most = {"exact tiles, torch.exp": 2048, "naive": 512}
    width = {name: {} for name in methods}
    for units in (64, 128, 256, 512, 1024, 2048, 4096, 8192):
        a = normal(SAMPLES, units)
        used = {n: forward_backward(f, a) for n, f in methods.items() if units <= most.get(n, 8192)}
        slow = [n for n in used if n in most or units > 2048 and n in ("DeCov, covariance", "VICReg covariance")]
        for name, value in interleaved(used, rounds, slow=slow).items():
            width[name][units] = value
    # Doublings are ratios of neighbours: timed side by side, not taken from the loop above.
    widths = {units: forward_backward(direct, normal(SAMPLES, units)) for units in (1024, 2048, 4096, 8192)}
    seconds = interleaved(widths, rounds)
    rows = [
        Row(f"D {units} to {2 * units}", seconds[2 * units] / seconds[units], "x", at_most=2.3)
        for units in (1024, 2048, 4096)
    ]
    for units, bar in ((512, 0.8), (2048, 0.25), (8192, 0.03)):
        own = width["Direct"][units]
        rows.append(
            Row(f"time over DeCov (covariance), D = {units}", own / width["DeCov, covariance"][units], at_most=bar)
        )
        rows.append(Row(f"time over DeCov (Gram), D = {units}", own / width["DeCov, Gram"][units]))
        rows.append(Row(f"time over VICReg's covariance term, D = {units}", own / width["VICReg covariance"][units]))
    batches = {n: forward_backward(direct, normal(n, 256)) for n in (128, 512, 2048, 8192)}
    samples = interleaved(batches, rounds)
    rows.append(Row("N 512 to 2048 to 8192, per doubling", math.sqrt(math.sqrt(samples[8192] / samples[512])), "x"))
    return rows, {"width": width, "samples": {"Direct, D = 256": samples}}
