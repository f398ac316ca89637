"""`next-use` written down once more in numpy, as its description says it: what the native one is held against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


class NextUseOracle:
    """Rates over four half-lives, weights learnt by expectation maximisation, and expected passes to the next use."""

    def __init__(self, num_layers: int, num_experts: int, top_k: int, shortest: float, memory: int) -> None:
        self.kept = 2.0 ** (-1.0 / (max(shortest, 1e-2) * 10.0 ** np.arange(4)))
        self.num_layers, self.num_experts, self.memory = num_layers, num_experts, memory
        self.rates = np.zeros((num_layers * num_experts, 4))
        self.longest = np.zeros(4)  # the rates of an expert that every pass used
        self.all_alike = top_k / num_experts
        self.weights = np.full(5, 0.2)
        self.seen: list[F64] = []

    def forecasts(self, rates: F64) -> F64:
        """Return the chance by each of the five forecasts times its weight, float64 [n, 5]."""
        chances = np.c_[rates / np.maximum(self.longest, np.finfo(float).tiny), np.full(len(rates), self.all_alike)]
        return chances * self.weights

    def begin_pass(self) -> None:
        if self.seen:
            credit = self.forecasts(np.concatenate(self.seen))
            share = (credit / credit.sum(axis=1, keepdims=True)).mean(axis=0)
            self.weights = np.maximum(self.weights + (share - self.weights) / self.memory, 1e-3)
            self.seen = []
        self.longest = self.longest * self.kept + (1 - self.kept)

    def use(self, keys: NDArray[np.intp]) -> None:
        self.seen.append(self.rates[keys])
        layer = np.arange(self.num_experts) + keys[0] // self.num_experts * self.num_experts
        self.rates[layer] *= self.kept
        self.rates[keys] += 1 - self.kept

    def scores(self, keys: NDArray[np.intp], layer_idx: int) -> F64:
        chance = np.clip(self.forecasts(self.rates[keys]).sum(axis=1), 1e-3, 1)
        to_go = (keys // self.num_experts - layer_idx - 1) % self.num_layers
        return -(1 / chance) - to_go / self.num_layers
