"""The arithmetic of the analysis of schedules: spreads, correlations, paired differences of levels. Plain numbers.

Shape suffixes: N configurations, R resamples.
"""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np

from kdexp.analysis.compared import Sampling
from kdexp.analysis.paired import student_t

CONSISTENCY_FLOOR = 0.001


def described(values: np.ndarray, sign: int = 1) -> dict[str, Any]:
    """n, mean, std (n - 1) and best of the values that are finite; None where too few are."""
    known = values[np.isfinite(values)]
    best = None if len(known) == 0 else float((sign * known).max() * sign)
    return {
        "n": len(known),
        "mean": float(known.mean()) if len(known) else None,
        "std": float(known.std(ddof=1)) if len(known) > 1 else None,
        "best": best,
    }


def consistency(std: float | None) -> float | None:
    """1 / (std + 0.001), as the published study has it: it compares strategies on one metric, and has no unit."""
    return None if std is None else 1 / (std + CONSISTENCY_FLOOR)


def correlation(x_N: np.ndarray, y_N: np.ndarray, sampling: Sampling) -> dict[str, Any]:
    """Pearson's r with its two-sided p, a percentile interval over resampled pairs, and the least-squares slope of y.

    Pairs with a value that is not finite are left out; all is None below three pairs or where one side is constant.
    """
    known = np.isfinite(x_N) & np.isfinite(y_N)
    x_N, y_N = x_N[known], y_N[known]
    found: dict[str, Any] = {"n": len(x_N), "r": None, "p": None, "low": None, "high": None, "slope": None}
    if len(x_N) < 3 or np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        return found
    r = float(_pearson(x_N[None], y_N[None])[0])
    generator = np.random.default_rng(sampling.seed)
    index_RN = generator.integers(0, len(x_N), size=(sampling.n_resamples, len(x_N)))
    drawn_R = _pearson(x_N[index_RN], y_N[index_RN])
    low, high = _percentiles(drawn_R, sampling.level)
    slope = float(np.polyfit(x_N, y_N, 1)[0])
    return found | {"r": r, "p": correlation_p(r, len(x_N)), "low": low, "high": high, "slope": slope}


def correlation_p(r: float, n: int) -> float:
    """Two-sided p of Pearson's r over n pairs, by Student's t with n - 2 degrees of freedom."""
    return float(mpmath.betainc((n - 2) / 2, 0.5, 0, max(0.0, 1 - r * r), regularized=True))


def paired_difference(one_N: np.ndarray, other_N: np.ndarray, level: float) -> dict[str, Any]:
    """The mean of one minus other with Student's interval; without an interval below two pairs."""
    difference_N = one_N - other_N
    difference_N = difference_N[np.isfinite(difference_N)]
    n = len(difference_N)
    found: dict[str, Any] = {"pairs": n, "difference": float(difference_N.mean()) if n else None}
    if n < 2:
        return found | {"low": None, "high": None}
    half = student_t(0.5 + level / 2, n - 1) * float(difference_N.std(ddof=1)) / math.sqrt(n)
    mean = float(difference_N.mean())
    return found | {"low": mean - half, "high": mean + half}


def spread_difference(one_N: np.ndarray, other_N: np.ndarray, sampling: Sampling) -> dict[str, Any]:
    """Std of one minus std of another set of runs, with a percentile interval over resampled runs of each."""
    generator = np.random.default_rng(sampling.seed)

    def drawn(values_N: np.ndarray) -> np.ndarray:
        index_RN = generator.integers(0, len(values_N), size=(sampling.n_resamples, len(values_N)))
        return np.asarray(values_N[index_RN].std(axis=1, ddof=1))

    low, high = _percentiles(drawn(one_N) - drawn(other_N), sampling.level)
    return {"difference": float(one_N.std(ddof=1) - other_N.std(ddof=1)), "low": low, "high": high}


def scaled(values: np.ndarray) -> np.ndarray:
    """Min-max to [0, 1]; all 0 where they are equal, NaN stays."""
    low, high = np.nanmin(values), np.nanmax(values)
    return np.where(np.isnan(values), np.nan, (values - low) / (high - low) if high > low else 0.0)


def _pearson(x_RN: np.ndarray, y_RN: np.ndarray) -> np.ndarray:
    """(R,): r of each row; NaN where a row is constant."""
    varies_R = (np.ptp(x_RN, axis=1) > 0) & (np.ptp(y_RN, axis=1) > 0)
    x_RN, y_RN = x_RN - x_RN.mean(1, keepdims=True), y_RN - y_RN.mean(1, keepdims=True)
    below_R = np.sqrt((x_RN**2).sum(1) * (y_RN**2).sum(1))
    r_R = np.divide((x_RN * y_RN).sum(1), below_R, out=np.full(len(x_RN), np.nan), where=varies_R)
    return np.clip(r_R, -1, 1)


def _percentiles(drawn_R: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.nanquantile(drawn_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
