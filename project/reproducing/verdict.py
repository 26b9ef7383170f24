"""What a person is told of how equal two runs are."""

from lightrail.project.reproducing.outcome import History, MetricPair, Outcome, PredictionPair
from lightrail.project.basics.tables import aligned

HEAD = ("metric", "then", "now", "equal")


def table(outcome: Outcome) -> str:
    """Return a line for each metric, with its last value then and now, and one for the predictions."""
    return "\n".join(aligned([HEAD, *map(_metric_row, outcome.metrics), _prediction_row(outcome.predictions)]))


def in_few_words(outcome: Outcome) -> str:
    """Return `equal`, or what is not: `train/loss from step 3, 4 other metrics, 2 of 11 predictions`."""
    names, predictions = outcome.differing, outcome.predictions
    found = [f"train/loss from step {names['train/loss']}"] if "train/loss" in names else []
    if others := len(names.keys() - {"train/loss"}):
        found.append(f"{others} {'other ' if found else ''}metric{'s' if others > 1 else ''}")
    if predictions.num_different:
        found.append(f"{predictions.num_different} of {predictions.num_rows} predictions")
    else:
        numbers = predictions.largest_differences.items()
        found += [f"the predictions' {name} by up to {most:.1g}" for name, most in numbers]
    return ", ".join(found) or "equal"


def _metric_row(pair: MetricPair) -> tuple[str, ...]:
    step = pair.first_difference
    is_curve = max(len(pair.then), len(pair.now)) > 1
    verdict = "yes" if step is None else f"no, from step {step}" if is_curve else "no"
    return (pair.name, *_last_values(pair.then, pair.now), verdict)


def _last_values(then: History, now: History) -> tuple[str, str]:
    """In as many digits as it takes to tell them apart."""
    one, other = then[-1][1] if then else None, now[-1][1] if now else None
    short = ["-" if value is None else f"{value:.6g}" for value in (one, other)]
    if short[0] == short[1] and one != other:
        short = [repr(one), repr(other)]
    return short[0], short[1]


def _prediction_row(pair: PredictionPair) -> tuple[str, ...]:
    found = [f"{pair.num_different} differ"] if pair.num_different else []
    found += [f"{name} by up to {most:.1g}" for name, most in pair.largest_differences.items()]
    return ("predictions", f"{pair.num_rows} rows", "", f"no, {', '.join(found)}" if found else "yes")
