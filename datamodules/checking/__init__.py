"""Measures and judges data before it is trained on."""

from lightrail.datamodules.checking.facts import SplitFacts
from lightrail.datamodules.checking.findings import DataReport, Remedies, report_on

__all__ = ["DataReport", "Remedies", "SplitFacts", "report_on"]
