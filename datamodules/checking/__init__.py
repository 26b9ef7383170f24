"""Measures and judges data before it is trained on."""

from lightrail.datamodules.checking.facts import (
    Pairs,
    SplitFacts,
    conflicts,
    cut_shares,
    imbalance,
    length_percentiles,
    repeats,
    shared,
    shared_conflicts,
)
from lightrail.datamodules.checking.findings import Finding, Remedies, find
from lightrail.datamodules.checking.report import DataReport, report_on

__all__ = [
    "DataReport",
    "Finding",
    "Pairs",
    "Remedies",
    "SplitFacts",
    "conflicts",
    "cut_shares",
    "find",
    "imbalance",
    "length_percentiles",
    "repeats",
    "report_on",
    "shared",
    "shared_conflicts",
]
