"""From prompts to records of drawn responses: by sampling, or for tables by enumeration."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxpref.algorithms.mixtures import Mixtures, alternatives, members, table
from jaxpref.metrics import Metrics, weighted_mean
from jaxpref.policies.base import Policy
from jaxpref.policies.tabular import enumerated
from jaxpref.selection import hybrid
from jaxpref.types import Completions, Params, PRNGKey, Samples

__all__ = ["DrawRecords", "behind", "drawn_metrics", "enumerator", "sampler", "with_values"]

# (policies, batch, key, step) -> records with the columns of drawn responses
DrawRecords = Callable[[Mapping[str, Params], Completions, PRNGKey, Int[Array, ""]], Completions]


def sampler(
    policy: Policy,
    mixtures: Mixtures,
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> DrawRecords:
    """One response for each mixture. Columns of prompts are kept; those of responses are dropped.

    Args:
      mixtures: who draws each response of a prompt (`algorithms.mixtures`), such as `({"policy": 1.0},) * 2`.
      max_tokens: longest response; together with the buckets of the stage it fixes the compiled shapes.
      temperature, top_k, top_p: of sampling, applied to the mixture. Log-probs are always at temperature 1.
    """
    names, count = members(mixtures), len(alternatives(mixtures)[0])
    alone = len(names) == 1 and _is_alone(mixtures)
    weights_of = jax.jit(lambda step, key, prompts: table(mixtures, len(prompts.prompt_mask), step, key))
    finish = jax.jit(lambda batch, drawn, weights: _record(batch, drawn, weights, names))

    def draw(
        policies: Mapping[str, Params], batch: Completions, key: PRNGKey, step: Int[Array, ""]
    ) -> Completions:
        die, noise = jax.random.split(key)
        prompts = batch.prompts
        weights = weights_of(step, die, prompts)
        params = policies[names[0]] if alone else tuple(policies[name] for name in names)
        drawn = policy.sample(
            params,
            prompts,
            noise,
            num_samples=count,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            **({} if alone else {"weights": weights}),
        )
        return finish(batch, drawn, weights)

    return draw


def _is_alone(mixtures: Mixtures) -> bool:
    return all(set(mixture.values()) == {1.0} for one in alternatives(mixtures) for mixture in one)


def _record(batch: Completions, drawn: Samples, weights: Array, names: tuple[str, ...]) -> Completions:
    completions: Completions = drawn.completions
    known = {
        "behaviour_logps": drawn.token_logps.sum(-1),
        "behaviour_token_logps": drawn.token_logps,
        "ended": drawn.ended,
        "drawn": jnp.ones(drawn.ended.shape, bool),
    }
    if "policy" in names:
        known["on_policy"] = _on_policy(weights, names)
    return dataclasses.replace(
        completions,
        # A row that pads the batch stays one.
        response_mask=completions.response_mask & batch.real[:, None, None],
        reference_logps=None,
        columns=batch.row_columns | known,
        column_axes=batch.column_axes,
    )


def _on_policy(weights: Array, names: tuple[str, ...]) -> Array:
    """Responses drawn by the policy alone, [b, k]."""
    alone = jnp.array([name == "policy" for name in names], weights.dtype)
    return (weights == alone.reshape((1,) * (weights.ndim - 1) + (-1,))).all(-1) & ("policy" in names)


def enumerator(policy: Policy, mixtures: Mixtures) -> DrawRecords:
    """Every tuple of responses that may be drawn, as a row of its own with its probability as its weight.

    For tables, whose logits are their params: the params of a mixture are the weighted sum of those of its
    members. b prompts, k mixtures and n responses give b n^k rows (times the alternatives of `mixtures`).
    """
    names, choices = members(mixtures), alternatives(mixtures)
    count = len(choices[0])

    @jax.jit
    def draw(
        policies: Mapping[str, Params], batch: Completions, key: PRNGKey, step: Int[Array, ""]
    ) -> Completions:
        del key
        every = enumerated(policy, batch.prompts)
        b, n, _ = every.response_tokens.shape
        tuples = np.array(list(itertools.product(range(n), repeat=count)))  # [t, k]
        parts = []
        for one in choices:
            weights = table([one], 1, step, jax.random.key(0))[0]  # [k, m']
            token_logps = jnp.stack(
                [
                    policy.token_logps(_mixed([policies[name] for name in members([one])], row), every)
                    for row in weights
                ],
                1,
            )
            drawn = token_logps[:, np.arange(count), tuples]  # [b, t, k, r]
            full = jnp.stack([_weight_of(name, [one], weights) for name in names], -1)
            known = {
                "behaviour_logps": drawn.sum(-1),
                "behaviour_token_logps": drawn,
                "ended": jnp.ones(drawn.shape[:-1], bool),
                "drawn": jnp.ones(drawn.shape[:-1], bool),
                "weights": jnp.exp(drawn.sum((-1, -2)))
                / len(choices)
                * batch.response_weights.max(-1)[:, None],
            }
            if "policy" in names:
                known["on_policy"] = jnp.broadcast_to(_on_policy(full, names), drawn.shape[:-1])
            parts.append((every.response_tokens[:, tuples], every.response_mask[:, tuples], known))
        # [b, rows of a prompt, ...]
        tokens, mask, known = jax.tree.map(lambda *x: jnp.concatenate(x, 1), *parts)
        each = tokens.shape[1]
        flat = jax.tree.map(lambda x: x.reshape(b * each, *x.shape[2:]), (tokens, mask, known))

        def repeated(x: Array) -> Array:
            return jnp.repeat(x, each, 0)

        return Completions(
            repeated(batch.prompt_tokens),
            repeated(batch.prompt_mask),
            flat[0],
            flat[1] & repeated(batch.real)[:, None, None],
            columns={name: repeated(value) for name, value in batch.row_columns.items()} | flat[2],
            column_axes=batch.column_axes,
        )

    return draw


def _mixed(params: list[Params], weights: Array) -> Params:
    return jax.tree.map(lambda *x: sum(w * leaf for w, leaf in zip(weights, x, strict=True)), *params)


def _weight_of(name: str, mixtures: Mixtures, weights: Array) -> Array:
    names = members(mixtures)
    return weights[:, names.index(name)] if name in names else jnp.zeros(len(weights))


def behind(recorded: Completions, drawn: Completions) -> Completions:
    """The recorded pair, which no policy drew, followed by the drawn responses. In an exact expectation each
    tuple of responses is a row of its own, whose weight includes that of its recorded row."""
    each = len(drawn.prompt_tokens) // len(recorded.prompt_tokens)
    recorded = recorded if each == 1 else jax.tree.map(lambda x: jnp.repeat(x, each, 0), recorded)
    shape = recorded.lengths.shape
    nobody = dict.fromkeys(("drawn", "on_policy"), jnp.zeros(shape, bool))
    known = nobody | {"ended": jnp.ones(shape, bool)}
    known |= {name: drawn.columns[name] for name in ("weights",) if name in drawn.columns}
    return hybrid(dataclasses.replace(recorded, columns=recorded.columns | known), drawn)


def with_values(policy: Policy, params: Params, record: Completions) -> Completions:
    """`record` with the critic's values, as they are before the update."""
    if policy.quantities is None:
        raise ValueError("this policy has no critic: build the transformer with outputs=1")
    values = policy.quantities(params, record, ("values",), None, None)["values"]
    return dataclasses.replace(record, columns=record.columns | {"behaviour_values": values})


def drawn_metrics(record: Completions, *, contested: bool) -> Metrics:
    """Metrics of drawn responses. Scores and win rates are of the policy's own responses (of all drawn ones,
    if it draws none by itself), the latter against responses of others, if there are any (`contested`)."""
    whose = record.columns["on_policy" if "on_policy" in record.columns else "drawn"]
    own = whose * record.response_weights
    metrics = {
        "response_length": weighted_mean(record.lengths.astype(jnp.float32), own),
        "ended": weighted_mean(record.columns["ended"].astype(jnp.float32), own),
    }
    if "scores" in record.columns:
        metrics["objective/scores"] = weighted_mean(record.columns["scores"], own)
    if record.preferences is not None and contested:
        against = own[:, :, None] * (~record.columns["on_policy"] & record.present)[:, None]
        metrics["objective/win_rate"] = weighted_mean(record.preferences, against)
    return metrics
