"""Propagation rules written out for a chain of layers: one image, loops over layers, no hooks and no autograd.

A chain is a list of ("linear", weight (out, in), bias (out)) and ("relu",); vectors in, one logit per output unit.
"""

from __future__ import annotations

import numpy as np


def forward(chain, x):
    """The inputs of every layer, and the output."""
    inputs = []
    for layer in chain:
        inputs.append(x)
        x = layer[1] @ x + layer[2] if layer[0] == "linear" else np.maximum(x, 0)
    return inputs, x


def gated(chain, x, target, kind):
    """Gradient, guided backpropagation or deconvnet: the signal goes back through the chain."""
    inputs, out = forward(chain, x)
    signal = np.eye(len(out))[target]
    for layer, a in zip(reversed(chain), reversed(inputs), strict=True):
        if layer[0] == "linear":
            signal = layer[1].T @ signal
            continue
        if kind in ("gradient", "guided"):
            signal = signal * (a > 0)
        if kind in ("deconvnet", "guided"):
            signal = signal * (signal > 0)
    return signal


def relevance(chain, x, target, rule, gamma=0.25, low=None, high=None):
    """LRP of one logit; rule: zero, gamma, z-plus, alpha2-beta1 or deep-taylor (z-box at the first layer, no biases)."""
    inputs, out = forward(chain, x)
    R = np.where(np.arange(len(out)) == target, out, 0.0)
    for depth in reversed(range(len(chain))):
        if chain[depth][0] == "relu":
            continue
        _, W, b = chain[depth]
        a, new = inputs[depth], np.zeros_like(inputs[depth])
        for k in range(len(b)):
            share = np.zeros_like(a)
            contributions = a * W[k]
            plus, minus = np.maximum(contributions, 0), np.minimum(contributions, 0)
            if rule == "deep-taylor" and depth == 0:
                parts = contributions - low * np.maximum(W[k], 0) - high * np.minimum(W[k], 0)
                share = parts / parts.sum()
            elif rule == "deep-taylor":
                share = plus / plus.sum() if plus.sum() > 0 else share
            elif rule == "zero":
                share = contributions / (contributions.sum() + b[k])
            elif rule == "z-plus":
                share = plus / (plus.sum() + max(b[k], 0)) if plus.sum() > 0 else share
            elif rule == "alpha2-beta1":
                if plus.sum() + max(b[k], 0) > 0:
                    share = share + 2 * plus / (plus.sum() + max(b[k], 0))
                if minus.sum() + min(b[k], 0) < 0:
                    share = share - minus / (minus.sum() + min(b[k], 0))
            elif rule == "gamma":
                z = contributions.sum() + b[k]
                same, bias = (plus, max(b[k], 0)) if z > 0 else (minus, min(b[k], 0))
                boosted = contributions + gamma * same
                share = boosted / (boosted.sum() + b[k] + gamma * bias)
            new = new + share * R[k]
        R = new
    return R


def rescale(chain, x, reference, target):
    """DeepLIFT with the Rescale rule."""
    inputs, out = forward(chain, x)
    others, _ = forward(chain, reference)
    m = np.eye(len(out))[target]
    for layer, a, r in zip(reversed(chain), reversed(inputs), reversed(others), strict=True):
        if layer[0] == "linear":
            m = layer[1].T @ m
            continue
        for i in range(len(a)):
            change = a[i] - r[i]
            m[i] *= (max(a[i], 0) - max(r[i], 0)) / change if abs(change) > 1e-12 else float(a[i] > 0)
    return m * (x - reference)


def reveal_cancel(chain, x, reference, target):
    """DeepLIFT with the RevealCancel rule, the multipliers of both parts kept from layer to layer."""
    inputs, out = forward(chain, x)
    others, _ = forward(chain, reference)
    parts = [(np.maximum(x - reference, 0), np.minimum(x - reference, 0))]  # of every layer's input
    for depth, layer in enumerate(chain):
        up, down = parts[-1]
        if layer[0] == "linear":
            contributions = layer[1] * (inputs[depth] - others[depth])
            parts.append((np.maximum(contributions, 0).sum(axis=1), np.minimum(contributions, 0).sum(axis=1)))
        else:
            r = others[depth]
            f = lambda value: np.maximum(value, 0)  # noqa: E731
            rise = ((f(r + up) - f(r)) + (f(r + up + down) - f(r + down))) / 2
            fall = ((f(r + down) - f(r)) + (f(r + up + down) - f(r + up))) / 2
            parts.append((rise, fall))
    plus = minus = np.eye(len(out))[target]
    for depth in reversed(range(len(chain))):
        layer, (up, down), (above, below) = chain[depth], parts[depth], parts[depth + 1]
        if layer[0] == "relu":
            r, slope = others[depth], lambda value: (value > 0).astype(float)
            at_none = (slope(r) + slope(r + down)) / 2, (slope(r) + slope(r + up)) / 2  # where a part is zero
            plus = plus * np.where(up != 0, above / np.where(up != 0, up, 1), at_none[0])
            minus = minus * np.where(down != 0, below / np.where(down != 0, down, 1), at_none[1])
            continue
        W, change = layer[1], inputs[depth] - others[depth]
        m = np.zeros(len(change))
        for i in range(len(change)):
            for j in range(len(W)):
                sign = W[j, i] * change[i]
                m[i] += W[j, i] * (plus[j] if sign > 0 else minus[j] if sign < 0 else (plus[j] + minus[j]) / 2)
        plus = minus = m
    return plus * np.maximum(x - reference, 0) + minus * np.minimum(x - reference, 0)
