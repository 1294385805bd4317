"""Propagation rules of a small transformer: one image, explicit formulas for each step, no autograd.

A network is a list of steps on numbered values. Each step is (name, inputs, constants) and appends one value, a matrix of tokens.
Value 0 is the image as tokens (N, K), and the last value is a row of logits.
"""

from __future__ import annotations

import math

import numpy as np

EPS = 1e-5
erf = np.vectorize(math.erf)


def gelu(a):
    return a * (1 + erf(a / math.sqrt(2))) / 2


def softmax(S):
    e = np.exp(S - S.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def layer_norm(a, gamma, beta):
    c = a - a.mean(axis=1, keepdims=True)
    return gamma * c / np.sqrt((c**2).mean(axis=1, keepdims=True) + EPS) + beta


def forward(steps, x):
    """Return all values."""
    values = [x]
    for name, inputs, constants in steps:
        a = [values[i] for i in inputs]
        values.append(apply(name, a, constants))
    return values


def apply(name, a, constants):
    """Return the value of a step."""
    if name == "linear":
        return a[0] @ constants[0].T + constants[1]
    if name == "shift":
        return a[0] + constants[0]
    if name == "prepend":
        return np.concatenate([constants[0], a[0]])
    if name == "first":
        return a[0][:1]
    if name == "add":
        return a[0] + a[1]
    if name == "layer-norm":
        return layer_norm(a[0], *constants)
    if name == "gelu":
        return gelu(a[0])
    if name == "scores":
        return a[0] @ a[1].T / math.sqrt(a[0].shape[1])
    if name == "softmax":
        return softmax(a[0])
    if name == "mix":
        return a[0] @ a[1]
    raise ValueError(name)


def deeplift(steps, x, reference, target):
    """Return the multipliers of the Rescale rule times x - reference."""
    values, bases = forward(steps, x), forward(steps, reference)
    multipliers = [np.zeros_like(value) for value in values]
    multipliers[-1][0, target] = 1
    for k in reversed(range(len(steps))):
        name, inputs, constants = steps[k]
        a, b = [values[i] for i in inputs], [bases[i] for i in inputs]
        new = rescale(name, a, b, constants, multipliers[k + 1])
        for i, m in zip(inputs, new, strict=True):
            multipliers[i] = multipliers[i] + m
    return multipliers[0] * (x - reference)


def rescale(name, a, b, constants, M):
    """Return the multipliers of the inputs a, with reference b, from the multipliers M of the output."""
    mean = [(one + two) / 2 for one, two in zip(a, b, strict=True)]
    if name == "linear":
        return [M @ constants[0]]
    if name == "shift":
        return [M]
    if name == "prepend":
        return [M[1:]]
    if name == "first":
        return [np.concatenate([M, np.zeros((len(a[0]) - 1, M.shape[1]))])]
    if name == "add":
        return [M, M]
    if name == "gelu":
        return [M * (gelu(a[0]) - gelu(b[0])) / (a[0] - b[0])]
    if name == "scores":
        root = math.sqrt(a[0].shape[1])
        return [M @ mean[1] / root, M.T @ mean[0] / root]
    if name == "mix":
        return [M @ mean[1].T, mean[0].T @ M]
    if name == "softmax":
        return [rescale_softmax(a[0], b[0], M)]
    if name == "layer-norm":
        return [rescale_layer_norm(a[0], b[0], constants[0], M)]
    raise ValueError(name)


def rescale_softmax(S, T, M):
    new = np.zeros_like(S)
    for i in range(len(S)):
        top = max(S[i].max(), T[i].max())
        e, f = np.exp(S[i] - top), np.exp(T[i] - top)
        s, t = e.sum(), f.sum()
        for j in range(len(e)):
            m_e = (1 / s + 1 / t) / 2 * M[i, j] - sum((e[k] + f[k]) / 2 * M[i, k] for k in range(len(e))) / (s * t)
            is_equal = S[i, j] == T[i, j]  # of the class token with itself
            new[i, j] = m_e * (e[j] if is_equal else (e[j] - f[j]) / (S[i, j] - T[i, j]))
    return new


def rescale_layer_norm(a, b, gamma, M):
    new = np.zeros_like(a)
    D = a.shape[1]
    for i in range(len(a)):
        c, d = a[i] - a[i].mean(), b[i] - b[i].mean()
        r, q = ((c**2).mean() + EPS) ** -0.5, ((d**2).mean() + EPS) ** -0.5
        m_r = -((r * q) ** 2) / (r + q)
        middle = (c + d) / 2
        M_c = (r + q) / 2 * gamma * M[i] + 2 * m_r / D * middle * (gamma * middle * M[i]).sum()
        new[i] = M_c - M_c.mean()
    return new


def relevance(steps, x, target, rule):
    """Return the relevance of the image by AttnLRP (attn-lrp) or CP-LRP (cp-lrp) with γ = 0, and that of everything constant.

    The second value is the relevance of biases, positions and class tokens, and the rest that a softmax adds.
    """
    values = forward(steps, x)
    relevances = [np.zeros_like(value) for value in values]
    relevances[-1][0, target] = values[-1][0, target]
    lost = 0.0
    for k in reversed(range(len(steps))):
        name, inputs, constants = steps[k]
        R = relevances[k + 1]
        new = divide(name, [values[i] for i in inputs], values[k + 1], constants, R, rule)
        for i, part in zip(inputs, new, strict=True):
            relevances[i] = relevances[i] + part
        lost += R.sum() - sum(part.sum() for part in new)
    return relevances[0], lost


def divide(name, a, z, constants, R, rule):
    """Return the relevances of the inputs a from the relevance R of the output z."""
    if name == "linear":
        return [a[0] * ((R / z) @ constants[0])]
    if name == "shift":
        return [a[0] / z * R]
    if name == "prepend":
        return [R[1:]]
    if name == "first":
        return [np.concatenate([R, np.zeros((len(a[0]) - 1, R.shape[1]))])]
    if name == "add":
        return [a[0] / z * R, a[1] / z * R]
    if name == "gelu":
        return [R]
    if name == "layer-norm":
        c = a[0] - a[0].mean(axis=1, keepdims=True)
        slope = constants[0] / np.sqrt((c**2).mean(axis=1, keepdims=True) + EPS)
        G = slope * R / z
        return [a[0] * (G - G.mean(axis=1, keepdims=True))]
    if name == "softmax":
        if rule == "cp-lrp":
            return [np.zeros_like(R)]
        return [a[0] * (R - z * R.sum(axis=1, keepdims=True))]
    if name == "scores":
        root = math.sqrt(a[0].shape[1])
        return [a[0] * ((R / z) @ a[1]) / root / 2, a[1] * ((R / z).T @ a[0]) / root / 2]
    if name == "mix":
        share = 1.0 if rule == "cp-lrp" else 0.5
        return [share * a[0] * ((R / z) @ a[1].T), share * a[1] * (a[0].T @ (R / z))]
    raise ValueError(name)
