"""What a sweep leaves in the MLflow run of its study, and what a terminal shows of it."""

from lightrail.sweeps.report.concluding import conclude
from lightrail.sweeps.report.description import status_table

__all__ = ["conclude", "status_table"]
