"""The one number that makes a model as certain as it is right.

Source: C. Guo et al. (2017), "On Calibration of Modern Neural Networks".
"""

import math
from collections.abc import Callable

from scipy.optimize import minimize_scalar

LOWEST, HIGHEST = 0.1, 10.0


def best_temperature(loss: Callable[[float], float]) -> float:
    """The temperature at which a loss is smallest, between `LOWEST` and `HIGHEST`; scores are divided by it.

    >>> round(best_temperature(lambda temperature: (temperature - 2) ** 2), 3)
    2.0
    """
    bounds = (math.log(LOWEST), math.log(HIGHEST))
    search = minimize_scalar(lambda exponent: loss(math.exp(exponent)), bounds=bounds, options={"xatol": 1e-4})
    return math.exp(float(search.x))
