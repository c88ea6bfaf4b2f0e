"""Rules that others use, as they are described in the literature. Each sees only the slices before the one it decides.

A rule is a function of a cut and a price that gives candidates [slice, from, to] for the judged slices: 0 is direct,
k is relay k-1. All but the bandit know every leg of the slice before, as ours does.
"""

from collections.abc import Callable

import numpy as np
from yardstick import Cut, paths

Rule = Callable[[Cut, np.ndarray], np.ndarray]
RON_MEMORY, RON_HYSTERESIS = 10, 0.05
EWMA_WEIGHT, HYSTERESIS, HYSTERESIS_MS = 0.3, 0.10, 5.0
FAILED = 3.0  # times its training median: these data have slow paths, and none without an answer
TRIED = 4
UCB_CANDIDATES, UCB_WIDTH = 5, 0.5  # standard deviations of the pair's direct path in training


def direct(cut: Cut, price_ms: np.ndarray) -> np.ndarray:
    return np.zeros(cut.judged.shape, dtype=np.int16)


def static(cut: Cut, price_ms: np.ndarray) -> np.ndarray:
    """The best by the mean of the training slices, for ever."""
    best = paths(cut.rtt_ms[: cut.train].mean(axis=0), cut.relay_cost_ms).argmin(axis=1)
    return np.broadcast_to(best.astype(np.int16), cut.judged.shape)


def ron(cut: Cut, price_ms: np.ndarray) -> np.ndarray:
    """The best one relay by the mean of the last ten readings, unless it wins less than 5 %."""

    def seen(number: int) -> np.ndarray:
        return cut.rtt_ms[max(0, number - RON_MEMORY) : number].mean(axis=0)

    return _with_hysteresis(cut, seen, RON_HYSTERESIS, 0.0)


def ewma(cut: Cut, price_ms: np.ndarray) -> np.ndarray:
    """Smoothed legs; a move must win 10 % and 5 ms."""
    smooth = [cut.rtt_ms[0]]
    for measured in cut.rtt_ms[1:]:
        smooth.append(smooth[-1] + np.float32(EWMA_WEIGHT) * (measured - smooth[-1]))
    return _with_hysteresis(cut, lambda number: smooth[number - 1], HYSTERESIS, HYSTERESIS_MS)


def last_value(cut: Cut, price_ms: np.ndarray) -> np.ndarray:
    """Whatever was best in the slice before."""
    return _with_hysteresis(cut, lambda number: cut.rtt_ms[number - 1], 0.0, 0.0)


def random_4(cut: Cut, price_ms: np.ndarray) -> np.ndarray:
    """Direct; when it fails, the best of four relays drawn at random, until it is back (SOSR)."""
    random = np.random.default_rng(0)
    nodes = cut.rtt_ms.shape[1]
    usual = np.median(cut.rtt_ms[: cut.train], axis=0)
    chosen, current = [], np.zeros((nodes, nodes), dtype=np.intp)
    for number in range(cut.train, len(cut.rtt_ms)):
        costs = paths(cut.rtt_ms[number - 1], cut.relay_cost_ms)
        failed = cut.rtt_ms[number - 1] > FAILED * usual
        tried = random.integers(1, nodes + 1, (TRIED, nodes, nodes))
        values = np.stack([_of(costs, one) for one in tried])
        best = np.take_along_axis(tried, values.argmin(axis=0)[None], axis=0)[0]
        keeps = (current > 0) & (_of(costs, current) <= FAILED * usual)
        current = np.where(failed & ~np.isinf(values.min(axis=0)), np.where(keeps, current, best), 0)
        chosen.append(current)
    return np.array(chosen, dtype=np.int16)


def cusum(threshold: float) -> Rule:
    """Sum up by how much each other path was better; move when that exceeds the threshold, in prices."""

    def rule(cut: Cut, price_ms: np.ndarray) -> np.ndarray:
        current = paths(np.median(cut.rtt_ms[: cut.train], axis=0), cut.relay_cost_ms).argmin(axis=1)
        regret = np.zeros((*current.shape[:1], current.shape[0] + 1, current.shape[1]), dtype=np.float32)
        chosen = []
        for measured in cut.judged:
            chosen.append(current)
            costs = paths(measured, cut.relay_cost_ms)
            now = _of(costs, current)[:, None]
            with np.errstate(invalid="ignore"):
                regret = np.where(np.isfinite(costs), np.maximum(0, regret + now - costs), 0)
            best = np.where(costs < now, regret, 0).argmax(axis=1)
            moves = _of(regret, best) > threshold * price_ms
            current = np.where(moves, best, current)
            regret = np.where(moves[:, None], 0, regret)
        return np.array(chosen, dtype=np.int16)

    return rule


def ucb(cut: Cut, price_ms: np.ndarray) -> np.ndarray:
    """Direct and the five best by training; of those the lowest mean less its width, seeing only what is taken."""
    learnt = paths(np.median(cut.rtt_ms[: cut.train], axis=0), cut.relay_cost_ms)
    learnt[:, 0] = -1
    arms = np.argsort(learnt, axis=1, kind="stable")[:, : UCB_CANDIDATES + 1]
    known = paths(cut.rtt_ms[: cut.train].mean(axis=0), cut.relay_cost_ms)
    mean, count = np.take_along_axis(known, arms, axis=1), np.ones(arms.shape)
    spread = cut.rtt_ms[: cut.train].std(axis=0)[:, None]
    chosen = []
    for number, measured in enumerate(cut.judged):
        width = UCB_WIDTH * spread * np.sqrt(np.log(number + 2) / count)
        arm = (mean - width).argmin(axis=1)[:, None]
        taken = np.take_along_axis(arms, arm, axis=1)
        chosen.append(taken[:, 0])
        cost = np.take_along_axis(paths(measured, cut.relay_cost_ms), taken, axis=1)
        seen = np.take_along_axis(count, arm, axis=1) + 1
        old = np.take_along_axis(mean, arm, axis=1)
        np.put_along_axis(count, arm, seen, axis=1)
        with np.errstate(invalid="ignore"):
            np.put_along_axis(mean, arm, old + (cost - old) / seen, axis=1)
    return np.array(chosen, dtype=np.int16)


RULES: dict[str, Rule] = {
    "direct": direct,
    "static": static,
    "RON": ron,
    "random-4 on failure": random_4,
    "EWMA with hysteresis": ewma,
    "UCB": ucb,
    "CUSUM 0.5": cusum(0.5),
    "CUSUM 1": cusum(1.0),
    "last value": last_value,
}


def _with_hysteresis(cut: Cut, seen: Callable[[int], np.ndarray], share: float, least_ms: float) -> np.ndarray:
    current = paths(seen(cut.train), cut.relay_cost_ms).argmin(axis=1)
    chosen = []
    for number in range(cut.train, len(cut.rtt_ms)):
        costs = paths(seen(number), cut.relay_cost_ms)
        best = costs.argmin(axis=1)
        wins = _of(costs, best) < _of(costs, current) * (1 - share) - least_ms
        current = np.where(wins, best, current)
        chosen.append(current)
    return np.array(chosen, dtype=np.int16)


def _of(costs: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    return np.take_along_axis(costs, candidate[:, None], axis=1)[:, 0]
