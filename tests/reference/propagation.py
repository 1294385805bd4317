"""Propagation rules for a chain of layers: one image, loops over layers, no hooks and no autograd.

A chain is a list of ("linear", weight (out, in), bias (out)) and ("relu",). Images are vectors; each output is a logit.
"""

from __future__ import annotations

import numpy as np


def forward(chain, x):
    """Return the inputs of every layer, and the output."""
    inputs = []
    for layer in chain:
        inputs.append(x)
        x = layer[1] @ x + layer[2] if layer[0] == "linear" else np.maximum(x, 0)
    return inputs, x


def gated_gradient(chain, x, target, kind):
    """Return the gradient, guided backpropagation (guided) or deconvnet of a logit."""
    inputs, out = forward(chain, x)
    gradient = np.eye(len(out))[target]
    for layer, a in zip(reversed(chain), reversed(inputs), strict=True):
        if layer[0] == "linear":
            gradient = layer[1].T @ gradient
            continue
        if kind in ("gradient", "guided"):
            gradient = gradient * (a > 0)
        if kind in ("deconvnet", "guided"):
            gradient = gradient * (gradient > 0)
    return gradient


def relevance(chain, x, target, rule, gamma=0.25, low=None, high=None):
    """Return the LRP of a logit.

    rule: zero, gamma, z-plus, alpha2-beta1, or deep-taylor (z-box at the first layer, no biases).
    """
    inputs, out = forward(chain, x)
    R = np.where(np.arange(len(out)) == target, out, 0.0)
    for depth in reversed(range(len(chain))):
        if chain[depth][0] == "relu":
            continue
        _, W, b = chain[depth]
        a, new = inputs[depth], np.zeros_like(inputs[depth])
        for k in range(len(b)):
            share = hidden_share(a, W[k], b[k], rule, gamma)
            if rule == "deep-taylor" and depth == 0:
                share = box_share(a, W[k], low, high)
            new = new + share * R[k]
        R = new
    return R


def box_share(a, w, low, high):
    """Return the share of each input in an output by the z-box rule."""
    parts = a * w - low * np.maximum(w, 0) - high * np.minimum(w, 0)
    return parts / parts.sum()


def hidden_share(a, w, b, rule, gamma):
    """Return the share of each input in an output with weights w and bias b."""
    contributions = a * w
    plus, minus = np.maximum(contributions, 0), np.minimum(contributions, 0)
    share = np.zeros_like(a)
    if rule == "deep-taylor" and plus.sum() > 0:
        return plus / plus.sum()
    if rule == "zero":
        return contributions / (contributions.sum() + b)
    if rule == "z-plus" and plus.sum() > 0:
        return plus / (plus.sum() + max(b, 0))
    if rule == "alpha2-beta1":
        if plus.sum() + max(b, 0) > 0:
            share = share + 2 * plus / (plus.sum() + max(b, 0))
        if minus.sum() + min(b, 0) < 0:
            share = share - minus / (minus.sum() + min(b, 0))
    if rule == "gamma":
        z = contributions.sum() + b
        same_sign, bias = (plus, max(b, 0)) if z > 0 else (minus, min(b, 0))
        boosted = contributions + gamma * same_sign
        share = boosted / (boosted.sum() + b + gamma * bias)
    return share


def rescale(chain, x, reference, target):
    """Return DeepLIFT with the Rescale rule."""
    inputs, out = forward(chain, x)
    reference_inputs, _ = forward(chain, reference)
    m = np.eye(len(out))[target]
    for layer, a, r in zip(reversed(chain), reversed(inputs), reversed(reference_inputs), strict=True):
        if layer[0] == "linear":
            m = layer[1].T @ m
            continue
        for i in range(len(a)):
            change = a[i] - r[i]
            m[i] *= (max(a[i], 0) - max(r[i], 0)) / change if abs(change) > 1e-12 else float(a[i] > 0)
    return m * (x - reference)


def reveal_cancel(chain, x, reference, target):
    """Return DeepLIFT with the RevealCancel rule, which propagates the multipliers of both parts."""
    inputs, out = forward(chain, x)
    reference_inputs, _ = forward(chain, reference)
    parts = split_differences(chain, inputs, reference_inputs)
    plus = minus = np.eye(len(out))[target]
    for depth in reversed(range(len(chain))):
        layer, (up, down), (rise, fall) = chain[depth], parts[depth], parts[depth + 1]
        r = reference_inputs[depth]
        if layer[0] == "relu":
            at_zero_up = (relu_slope(r) + relu_slope(r + down)) / 2
            at_zero_down = (relu_slope(r) + relu_slope(r + up)) / 2
            plus = plus * np.where(up != 0, rise / np.where(up != 0, up, 1), at_zero_up)
            minus = minus * np.where(down != 0, fall / np.where(down != 0, down, 1), at_zero_down)
            continue
        plus = minus = linear_multipliers(layer[1], inputs[depth] - r, plus, minus)
    return plus * np.maximum(x - reference, 0) + minus * np.minimum(x - reference, 0)


def split_differences(chain, inputs, reference_inputs):
    """Return the positive and negative parts of the difference at the input of every layer, and at the output."""
    difference = inputs[0] - reference_inputs[0]
    parts = [(np.maximum(difference, 0), np.minimum(difference, 0))]
    for depth, layer in enumerate(chain):
        up, down = parts[-1]
        r = reference_inputs[depth]
        if layer[0] == "linear":
            contributions = layer[1] * (inputs[depth] - r)
            parts.append((np.maximum(contributions, 0).sum(axis=1), np.minimum(contributions, 0).sum(axis=1)))
        else:
            rise = ((relu(r + up) - relu(r)) + (relu(r + up + down) - relu(r + down))) / 2
            fall = ((relu(r + down) - relu(r)) + (relu(r + up + down) - relu(r + up))) / 2
            parts.append((rise, fall))
    return parts


def linear_multipliers(W, change, plus, minus):
    """Return the multipliers of a linear layer's inputs."""
    m = np.zeros(len(change))
    for i in range(len(change)):
        for j in range(len(W)):
            contribution = W[j, i] * change[i]
            if contribution > 0:
                multiplier = plus[j]
            elif contribution < 0:
                multiplier = minus[j]
            else:
                multiplier = (plus[j] + minus[j]) / 2
            m[i] += W[j, i] * multiplier
    return m


def relu(value):
    return np.maximum(value, 0)


def relu_slope(value):
    return (value > 0).astype(float)
