"""Checks of data before training: facts of each split, and findings with advice."""

from lightrail.datamodules.checking.facts import SplitFacts
from lightrail.datamodules.checking.findings import DataReport, Remedies, report_on

__all__ = ["DataReport", "Remedies", "SplitFacts", "report_on"]
