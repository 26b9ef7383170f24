"""`lightrail validate`: prints a checkpoint's metrics on the validation split; no run is made of it."""

from lightrail.project.running.build import build
from lightrail.project.running.checkpoint_arguments import parse_with_checkpoint


def validate(arguments: list[str]) -> int:
    configuration, checkpoint = parse_with_checkpoint(arguments)
    experiment = build(configuration, "validate", checkpoint)
    trainer = experiment.trainer
    trainer.validate(experiment.model, datamodule=experiment.data, verbose=False)
    if trainer.is_global_zero:
        for name, value in sorted(trainer.callback_metrics.items()):
            print(f"{name} {float(value):.6f}")
    return 0
