"""Train with both evaluation callbacks in one or more processes; prints the last gap and diagnostics as JSON."""

import json
import sys
import tempfile

from launch import leave
from tiny import Mlp, Rows, arguments

from hf_diversity import DiversityConfig, DiversityTrainer
from hf_diversity.callbacks import GeneralizationGapCallback, LayerDiagnosticsCallback


def main():
    processes = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        settings = arguments(
            folder, max_steps=4, per_device_train_batch_size=8 // processes, per_device_eval_batch_size=8 // processes,
            eval_strategy="steps", eval_steps=4, learning_rate=0.05,
        )  # fmt: skip
        trainer = DiversityTrainer(
            Mlp(), settings, train_dataset=Rows(32), eval_dataset=Rows(24, seed=1),
            diversity=DiversityConfig(gamma=0.7, diversity_weight=0.3),
            callbacks=[GeneralizationGapCallback(16), LayerDiagnosticsCallback(samples=24)],
        )  # fmt: skip
        trainer.train()
        if trainer.is_world_process_zero():
            logged = [r for r in trainer.state.log_history if "gap_loss" in r or "layers/out/mean_similarity" in r]
            print("RESULT " + json.dumps(logged))
        leave(trainer.accelerator)


if __name__ == "__main__":
    main()
