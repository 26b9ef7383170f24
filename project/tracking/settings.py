"""Where a run is recorded, and under which name. Imports neither torch nor MLflow, so that `--help` stays fast."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    uri: str | None = None
    """MLflow store: `sqlite:///FILE`, `postgresql://...` or the address of a server. Left out: the environment
    variable MLFLOW_TRACKING_URI, else `mlflow.db` in the working folder."""
    experiment: str = "lightrail"
    """Name of the MLflow experiment that the run belongs to; created when missing."""
    run_name: str | None = None
    """Name shown for the run. Left out: MLflow makes one up."""
    tags: dict[str, str] = field(default_factory=dict)
    """Tags of your own. Names that begin with `lightrail.` or `mlflow.` are reserved."""
