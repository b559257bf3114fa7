"""A slow decoder in plain numpy float64, one sequence, one head and one query at a time.

Written from the papers, sharing no code with jaxpref.models: it repeats key heads, builds rotations as
complex numbers and knows nothing of prompts or of stacked scans.
"""

import math

import numpy as np


def _norm(x, weights, sizes):
    x = x - x.mean(-1, keepdims=True) if sizes.norm == "layer" else x
    y = x / np.sqrt((x**2).mean(-1, keepdims=True) + sizes.norm_eps)
    scale = weights["scale"] + 1 if sizes.norm_offset else weights["scale"]
    return y * scale + weights.get("bias", 0)


def _linear(x, weights):
    return x @ weights["weight"] + weights.get("bias", 0)


def _frequency(i, dims, sizes, local):
    if local and sizes.local_rope_base is not None:
        return sizes.local_rope_base ** (-2 * i / dims)
    frequency = sizes.rope_base ** (-2 * i / dims)
    scaling = sizes.rope_scaling
    if scaling is None:
        return frequency
    if scaling.kind == "longrope":
        return frequency / (scaling.long_factors[i] if scaling.long else scaling.short_factors[i])
    if scaling.kind == "linear":
        return frequency / scaling.factor
    wavelength = 2 * math.pi / frequency
    if wavelength < scaling.original_length / scaling.high_frequency_factor:
        return frequency
    if wavelength > scaling.original_length / scaling.low_frequency_factor:
        return frequency / scaling.factor
    smooth = (scaling.original_length / wavelength - scaling.low_frequency_factor) / (
        scaling.high_frequency_factor - scaling.low_frequency_factor
    )
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


def _rotate(vector, position, sizes, local):
    dims = math.floor(sizes.head_dim * sizes.rope_fraction)
    local_base = local and sizes.local_rope_base is not None
    out = vector.copy()
    for i in range(dims // 2):
        a, b = (i, i + dims // 2) if sizes.rope_style == "half" else (2 * i, 2 * i + 1)
        turned = complex(vector[a], vector[b]) * np.exp(1j * position * _frequency(i, dims, sizes, local))
        stretch = 1 if sizes.rope_scaling is None or local_base else sizes.rope_scaling.attention_factor
        out[a], out[b] = turned.real * stretch, turned.imag * stretch
    return out


def _activation(x, name):
    if name == "silu":
        return x / (1 + np.exp(-x))
    if name == "gelu":
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _attention(x, weights, sizes, local, rotates):
    length, h = x.shape[0], sizes.head_dim
    q, k, v = (_linear(x, weights[name]) for name in ("query", "key", "value"))
    if sizes.qk_norm == "width":
        q, k = _norm(q, weights["query_norm"], sizes), _norm(k, weights["key_norm"], sizes)
    out = np.zeros((length, sizes.heads * h))
    for head in range(sizes.heads):
        group = head // (sizes.heads // sizes.kv_heads)
        queries, keys = q[:, head * h : (head + 1) * h], k[:, group * h : (group + 1) * h]
        if sizes.qk_norm == "head":
            queries, keys = (
                _norm(queries, weights["query_norm"], sizes),
                _norm(keys, weights["key_norm"], sizes),
            )
        if rotates:
            queries = np.stack([_rotate(row, t, sizes, local) for t, row in enumerate(queries)])
            keys = np.stack([_rotate(row, t, sizes, local) for t, row in enumerate(keys)])
        for t in range(length):
            first = max(0, t - sizes.sliding_window + 1) if local else 0
            scores = keys[first : t + 1] @ queries[t]
            scores = scores / math.sqrt(h) if sizes.query_scale is None else scores * sizes.query_scale
            if sizes.attention_soft_cap is not None:
                scores = sizes.attention_soft_cap * np.tanh(scores / sizes.attention_soft_cap)
            probs = np.exp(scores - scores.max())
            values = v[first : t + 1, group * h : (group + 1) * h]
            out[t, head * h : (head + 1) * h] = probs / probs.sum() @ values
    return _linear(out, weights["output"])


def _mlp(x, weights, sizes):
    up = _linear(x, weights["up"])
    inner = _activation(_linear(x, weights["gate"]), sizes.activation) * up if sizes.gated else None
    return _linear(_activation(up, sizes.activation) if inner is None else inner, weights["down"])


def next_token_log_probs(sizes, params, tokens):
    """`[t, vocab]` float64: row i is the distribution of token i + 1."""
    x = params["embedding"][tokens] * (math.sqrt(sizes.embed) if sizes.scale_embedding else 1)
    if sizes.learned_positions:
        x = x + params["positions"][: len(tokens)]

    def before(x, norm):
        return _norm(x, norm(), sizes) if sizes.pre_norms else x

    for i in range(sizes.layers):

        def of_layer(tree, i=i):
            return {k: of_layer(v) if isinstance(v, dict) else v[i] for k, v in tree.items()}

        w = of_layer(params["blocks"])
        every = sizes.global_every
        local = sizes.sliding_window is not None and (every is None or (i + 1) % every != 0)
        if sizes.local_pattern is not None:
            local = sizes.local_pattern[i]
        rotates = not sizes.learned_positions and (sizes.rope_pattern is None or sizes.rope_pattern[i])
        y = _attention(before(x, lambda w=w: w["attention_norm"]), w["attention"], sizes, local, rotates)
        if sizes.parallel_residual:
            x = x + y + _mlp(_norm(x, w["mlp_norm"], sizes), w["mlp"], sizes)
            continue
        x = x + (_norm(y, w["attention_post_norm"], sizes) if sizes.post_norms else y)
        y = _mlp(before(x, lambda w=w: w["mlp_norm"]), w["mlp"], sizes)
        x = x + (_norm(y, w["mlp_post_norm"], sizes) if sizes.post_norms else y)
    logits = _norm(x, params["final_norm"], sizes) @ params.get("unembedding", params["embedding"]).T
    if sizes.logit_soft_cap is not None:
        logits = sizes.logit_soft_cap * np.tanh(logits / sizes.logit_soft_cap)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
