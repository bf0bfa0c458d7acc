"""torch.compile through TrainingArguments: the hooks are in the first graph, and no step compiles anew."""

import os
import shutil

import pytest
import torch._dynamo
from accelerate.state import AcceleratorState
from tiny import Mlp, Rows, Sentences, arguments, assert_same, tiny_bert, weights
from torch._dynamo.utils import counters

from hf_diversity import DiversityConfig, DiversityTrainer

BACKENDS = [
    "eager",
    "aot_eager",
    pytest.param("inductor", marks=[
        pytest.mark.slow, pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler"),
    ]),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    counters.clear()
    os.environ.pop("ACCELERATE_DYNAMO_BACKEND", None)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    os.environ.pop("ACCELERATE_DYNAMO_BACKEND", None)
    AcceleratorState._reset_state(reset_partial_state=True)
    torch._dynamo.reset()


def bert():
    # Left to itself BERT sets this in its first forward pass, which compiles it anew
    return tiny_bert(problem_type="single_label_classification")


def make(path, kind, layers, **kwargs):
    model, data = {"mlp": (Mlp, Rows), "bert": (bert, Sentences)}[kind]
    return DiversityTrainer(
        model=model(), args=arguments(path, eval_strategy="steps", eval_steps=2, **kwargs), train_dataset=data(),
        eval_dataset=data(8, seed=5), diversity=DiversityConfig(diversity_weight=1.0, layers=layers),
    )  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("kind", "layers"),
    [("mlp", None), ("bert", ["bert.encoder.layer.1", "bert.encoder.layer.0.intermediate"])],
    ids=["default_layer", "layers_inside"],
)
def test_same_weights_and_no_recompilation_over_steps_evaluations_and_two_trainings(tmp_path, kind, layers, backend):
    if kind == "bert" and backend == "eager":
        pytest.skip("aot_eager traces the same and more")
    plain = make(tmp_path, kind, layers)
    for _ in range(2):
        plain.train()
    assert not counters["stats"]
    # Only now: accelerate's state is shared, and every trainer would compile
    compiled = make(tmp_path, kind, layers, torch_compile=True, torch_compile_backend=backend)
    graphs = []
    for _ in range(2):
        compiled.train()
        graphs.append(counters["stats"]["unique_graphs"])
    assert_same(weights(plain.model), weights(compiled.model), rtol=1e-4, atol=1e-5)
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14):  # older ones break the graph at the hooks
        assert graphs == [1, 1] and not counters["graph_break"]
    histories = [
        [{k: v for k, v in r.items() if k in ("diversity", "activation_norm", "gamma", "eval_diversity")} for r in h]
        for h in (plain.state.log_history, compiled.state.log_history)
    ]
    assert sum("diversity" in r for r in histories[0]) == 4 and sum("eval_diversity" in r for r in histories[0]) == 2
    for one, other in zip(*histories, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_a_run_without_regulariser_before_leaves_nothing_that_is_reused(tmp_path):
    """Dynamo does not look for hooks: code compiled for the baseline would run, and capture nothing."""
    after = []
    for weight in (0.0, 0.5):
        trainer = DiversityTrainer(
            model=Mlp(), args=arguments(tmp_path, max_steps=2, torch_compile=True, torch_compile_backend="aot_eager"),
            train_dataset=Rows(16), diversity=DiversityConfig(diversity_weight=weight),
        )  # fmt: skip
        trainer.train()
        after.append(trainer.state.log_history)
    assert any("diversity" in record for record in after[1])
