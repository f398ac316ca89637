"""`next-use` written down once more in numpy, as its description says it: what the native one is held against."""

from __future__ import annotations

import numpy as np

from edge_runtime.base.arrays import F64, Indices


class NextUseOracle:
    """Rates over four half-lives, weights learnt by expectation maximisation, and expected tokens to the next use."""

    def __init__(self, num_layers: int, num_experts: int, top_k: int, shortest: float, memory: int) -> None:
        self.kept = 2.0 ** (-1.0 / (max(shortest, 1e-2) * 10.0 ** np.arange(4)))
        self.num_layers, self.num_experts, self.memory = num_layers, num_experts, memory
        self.rates = np.zeros((num_layers * num_experts, 4))
        self.longest = np.zeros(4)  # the rates of an expert that every token used
        self.all_alike = top_k / num_experts
        self.weights = np.full(5, 0.2)
        self.seen: list[F64] = []
        self.num_tokens, self.before = 1, self.longest

    def forecasts(self, rates: F64) -> F64:
        """Return the chance by each of the five forecasts times its weight, float64 [n, 5]."""
        chances = np.c_[rates / np.maximum(self.longest, np.finfo(float).tiny), np.full(len(rates), self.all_alike)]
        return chances * self.weights

    def begin_pass(self, num_tokens: int = 1) -> None:
        """Learn from the pass before; its weights hold until the next one."""
        if sum(map(len, self.seen)):
            credit = np.concatenate(self.seen)
            share = (credit / credit.sum(axis=1, keepdims=True)).mean(axis=0)
            for _ in range(self.num_tokens):
                self.weights += (share - self.weights) / self.memory
            self.weights = np.maximum(self.weights, 1e-3)
            self.seen = []
        self.num_tokens, self.before = num_tokens, self.longest
        for _ in range(num_tokens):
            self.longest = self.longest * self.kept + (1 - self.kept)

    def use(self, layer_idx: int, tokens: list[Indices]) -> None:
        """Count what one token after the other uses of a layer, each an array of experts."""
        longest, now = self.before, self.longest
        first = layer_idx * self.num_experts
        for experts in tokens:
            self.longest = longest = longest * self.kept + (1 - self.kept)
            self.seen.append(self.forecasts(self.rates[first + experts]))
            self.rates[first : first + self.num_experts] *= self.kept
            self.rates[first + experts] += 1 - self.kept
        self.longest = now

    def scores(self, keys: Indices, layer_idx: int) -> F64:
        chance = np.clip(self.forecasts(self.rates[keys]).sum(axis=1), 1e-3, 1)
        to_go = (keys // self.num_experts - layer_idx - 1) % self.num_layers
        return -(1 / chance) - to_go / self.num_layers
