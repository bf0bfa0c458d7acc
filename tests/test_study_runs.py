"""Runs of a study: what the methods share, what the choice may see, and what a result says."""

import numpy as np
import pytest
import torch
from common.images import ImageDataset
from studies.ledger import Ledger
from studies.plan import make_study
from studies.worker import Worker
from tiny_study import tiny

METHODS = {
    "baseline": {"settings": [{}]},
    "weight decay": {"settings": [{"weight_decay": 1.0}]},
    "dropout": {"settings": [{"model_args": {"drop_rate": 0.5}}]},
    "norm only": {"settings": [{"measure": "none", "activation_weight": 0.1}]},
    "direct": {"settings": [{"measure": "direct", "diversity_weight": 1.0}]},
    "det": {"settings": [{"measure": "det", "diversity_weight": 1.0}]},
    "logdet": {"settings": [{"measure": "logdet", "diversity_weight": 0.1}]},
}


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Every method with one seed: its first weights, the images of its training steps in order, and its record."""
    study = make_study(tiny(methods=METHODS, conditions={"noise": {"label_noise": 0.5}}), "test")
    worker = Worker(study, Ledger(tmp_path_factory.mktemp("study")))
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for run in study.final_runs("noise", dict.fromkeys(METHODS, 0)):
            if run.seed != 1:
                continue
            batches, start = [], {}
            prepare = worker.recipe.prepare

            def prepared(*arguments, _prepare=prepare, _start=start, _batches=batches):
                made = _prepare(*arguments)
                _start.update({k: v.clone() for k, v in made.model.state_dict().items()})
                _batches.append(made.sets["train"])
                return made

            def items(dataset, positions, _batches=batches, _original=ImageDataset.__getitems__):
                if _batches and dataset is _batches[0]:
                    _batches.append((tuple(positions), tuple(dataset.split.labels[list(positions)])))
                return _original(dataset, positions)

            patch.setattr(worker.recipe, "prepare", prepared)
            patch.setattr(ImageDataset, "__getitems__", items)
            record = worker.execute(run, tmp_path_factory.mktemp("run"))
            patch.undo()
            found[run.method] = start, batches[1:], record
    return found


def test_methods_start_from_the_same_weights_and_see_the_same_batches(watched):
    start, batches, record = watched["baseline"]
    assert len(batches) >= 8 and len({positions for positions, _ in batches[:8]}) == 8, "two epochs in different order"
    assert record["data"]["noisy_labels"] == 32
    for method, (other_start, other_batches, other) in watched.items():
        assert start.keys() == other_start.keys()
        assert all(torch.equal(start[key], other_start[key]) for key in start), method
        assert batches == other_batches, method
        assert other["similarity"]["before"] == record["similarity"]["before"] and other["data"] == record["data"]
    outcomes = {m: tuple(found[2]["metrics"]["test"].values()) for m, found in watched.items()}
    # det of 128 units underflows to 0 and does nothing; every other method does something.
    assert outcomes.pop("det") == outcomes["baseline"] and len(set(outcomes.values())) == len(outcomes)
