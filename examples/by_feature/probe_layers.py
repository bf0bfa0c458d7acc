"""A report on the layers of a checkpoint: redundancy, dead units, training against test.

python examples/by_feature/probe_layers.py

On the command line: hf-diversity probe FOLDER --dataset embedded --out REPORT
"""

import timm
from stand_ins import arguments, images

from hf_diversity import DiversityTrainer
from hf_diversity.probe import ProbeSettings, probe
from hf_diversity.probe.report import ProbeReport
from hf_diversity.timm_models import wrap_timm_model


def main() -> ProbeReport:
    """Train and save a model, probe two of its layers, and print what was found."""
    processing = {"input_size": (1, 28, 28), "mean": (0.0,), "std": (1.0,), "crop_pct": 1.0}  # kept with the model
    model = timm.create_model("test_resnet", num_classes=10, in_chans=1, pretrained_cfg_overlay=processing)
    model = wrap_timm_model(model, model_args={"in_chans": 1})
    trainer = DiversityTrainer(model=model, args=arguments("probe_layers"), train_dataset=images("train", 320))
    trainer.train()
    trainer.save_model()
    settings = ProbeSettings(dataset="embedded", layers=("layer3", "layer4"), max_examples=100)
    report = probe(trainer.args.output_dir, settings, "outputs/examples/report", progress=False)
    for finding in report.findings:
        print(f"- {finding.about}: {finding.text}")
    print("outputs/examples/report/report.html")
    return report


if __name__ == "__main__":
    main()
