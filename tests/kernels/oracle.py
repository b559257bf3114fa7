"""Float64 numpy: log-probs, statistics and gradients of the textbook formulas, and cases to try them on."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Case:
    """Arrays in float64; `upstream` holds what each result's gradient is weighted with."""

    hidden: np.ndarray
    weight: np.ndarray
    targets: np.ndarray
    bias: np.ndarray | None = None
    soft_cap: float | None = None
    temperature: float = 1.0
    reference: tuple[np.ndarray, np.ndarray] | None = None
    upstream: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def rounded(self, dtype) -> "Case":
        """The case that inputs of `dtype` are."""
        import jax.numpy as jnp

        def down(x):
            return np.asarray(jnp.asarray(x, dtype), np.float64)

        return dataclasses.replace(
            self,
            hidden=down(self.hidden),
            weight=down(self.weight),
            bias=None if self.bias is None else down(self.bias),
            reference=None if self.reference is None else tuple(down(x) for x in self.reference),
        )


def case(
    rows, embed, vocab, *, bias=False, soft_cap=None, temperature=1.0, names=(), reference=False, seed=0
) -> Case:
    rng = np.random.default_rng(seed)
    hidden, weight = rng.normal(size=(*rows, embed)), rng.normal(size=(vocab, embed)) * 2 / embed**0.5
    other = (hidden[..., : embed // 2] + rng.normal(size=(*rows, embed // 2)), weight[:, : embed // 2])
    return Case(
        hidden,
        weight,
        rng.integers(0, vocab, rows),
        rng.normal(size=vocab) if bias else None,
        soft_cap,
        temperature,
        other if reference else None,
        {name: rng.normal(size=rows) for name in ("logps", *names) if name != "top1"},
    )


def _log_softmax(z):
    top = z.max(-1, keepdims=True)
    return z - top - np.log(np.exp(z - top).sum(-1, keepdims=True))


def _logits(c, hidden, weight, bias=None):
    raw = hidden @ weight.T + (0 if bias is None else bias)
    capped = raw if c.soft_cap is None else c.soft_cap * np.tanh(raw / c.soft_cap)
    return raw, capped / c.temperature


def solve(c: Case) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(results by name, gradients of `sum of upstream * result` by operand)."""
    raw, logits = _logits(c, c.hidden, c.weight, c.bias)
    log_p = _log_softmax(logits)
    p, finite = np.exp(log_p), np.where(np.isfinite(log_p), log_p, 0)
    hit = np.arange(len(c.weight)) == c.targets[..., None]
    squares = (p**2).sum(-1)
    results = {
        "logps": np.take_along_axis(log_p, c.targets[..., None], -1)[..., 0],
        "logsumexp": logits.max(-1) - log_p.max(-1),
        "entropy": -(p * finite).sum(-1),
        "log_sum_p2": np.log(squares),
        "top1": np.take_along_axis(log_p, c.targets[..., None], -1)[..., 0] >= log_p.max(-1),
    }
    parts = {
        "logps": hit - p,
        "logsumexp": p,
        "entropy": -p * (finite + results["entropy"][..., None]),
        "log_sum_p2": 2 * (p**2 / squares[..., None] - p),
    }
    if c.reference is not None:
        log_q = _log_softmax(_logits(c, *c.reference)[1])
        q, apart = np.exp(log_q), log_p - log_q
        weighted = np.where(p > 0, p * apart, 0)
        results["reverse_kl"] = weighted.sum(-1)
        results["forward_kl"] = -(q * apart).sum(-1)
        parts["reverse_kl"] = weighted - p * results["reverse_kl"][..., None]
        parts["forward_kl"] = p - q
    delta = sum(parts[name] * g[..., None] for name, g in c.upstream.items()) / c.temperature
    if c.soft_cap is not None:
        delta = delta / np.cosh(raw / c.soft_cap) ** 2
    flat = delta.reshape(-1, delta.shape[-1])
    gradients = {
        "hidden": delta @ c.weight,
        "weight": flat.T @ c.hidden.reshape(-1, c.hidden.shape[-1]),
        "bias": flat.sum(0),
    }
    return results, gradients
