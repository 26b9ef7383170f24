"""What becomes of a study while it goes on: a log line, and figures in its MLflow run, for every trial that ends."""

import logging
import threading

import optuna
from optuna.trial import FrozenTrial, TrialState

from lightrail.project.tracking.run import TrackedRun
from lightrail.sweeps.search.definition import Sweep
from lightrail.sweeps.search.outcomes import figures_of, outcomes_of
from lightrail.sweeps.search.study import FAILURE, finished, origin

log = logging.getLogger(__name__)


class Progress:
    """Tells of each trial that ends.

    Args:
        parent: the study's run; None where another machine keeps it.
    """

    def __init__(self, sweep: Sweep, parent: TrackedRun | None) -> None:
        self.sweep, self.parent = sweep, parent
        self._telling = threading.Lock()

    def ended(self, study: optuna.Study, trial: FrozenTrial) -> None:
        with self._telling:
            done = finished(study)
            log.info("trial %d %s; %d of %d", origin(trial), _told(trial, self.sweep), len(done), self._wanted)
            if self.parent is None:
                return
            figures = figures_of(outcomes_of(study, self.sweep), self.sweep)
            self.parent.logger.log_metrics(figures, step=len(done))

    @property
    def _wanted(self) -> int:
        return self.sweep.config.n_trials


def _told(trial: FrozenTrial, sweep: Sweep) -> str:
    if trial.state == TrialState.COMPLETE:
        values = ", ".join(
            f"{name}={value:.4f}" for name, value in zip(sweep.config.metrics, trial.values, strict=True)
        )
        return f"finished: {values}"
    if trial.state == TrialState.PRUNED:
        what = "seeds" if sweep.compares_seeds else "validations"
        return f"was given up after {len(trial.intermediate_values)} {what}"
    return f"failed: {trial.user_attrs[FAILURE]['reason']}"
