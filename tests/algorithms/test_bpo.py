"""Online BPO: the anchor is the policy that sampled. Its phases against exact laws on tables."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxpref import losses
from jaxpref.algorithms import offline, online
from jaxpref.algorithms.copies import copied
from jaxpref.algorithms.optimizers import lasting, restarted, warmup_linear
from jaxpref.judges import matrix_judge
from jaxpref.policies.tabular import tabular
from jaxpref.selection import soft_pair, two_samples
from jaxpref.types import Completions

REWARDS, REFERENCE = np.array([1.0, 0.5, 0.0]), np.array([0.2, 0.3, 0.5])
CYCLE = ((0.5, 0.9, 0.2), (0.1, 0.5, 0.8), (0.8, 0.2, 0.5))


def _policy():
    return tabular(prompts=1, vocab=3, initial=np.log(REFERENCE)[None])


def _prompts(rows: int) -> Completions:
    tokens = jnp.broadcast_to(jnp.array([[[0], [1]]]), (rows, 2, 1)).astype(jnp.int32)
    prompts = jnp.zeros((rows, 1), jnp.int32), jnp.ones((rows, 1), bool)
    return Completions(*prompts, tokens, jnp.ones((rows, 2, 1), bool))


def _first_token(record):
    return record.response_tokens[..., 0]


def rater():
    """Bradley-Terry with the rewards above."""
    return matrix_judge(_first_token, 1 / (1 + np.exp(REWARDS[None] - REWARDS[:, None])))


def cycle():
    return matrix_judge(_first_token, CYCLE)


def strict():
    """The better token wins for sure."""
    return matrix_judge(_first_token, ((0.5, 1, 1), (0, 0.5, 1), (0, 0, 0.5)))


def _bpo(*, every: int, **settings):
    defaults = dict(
        sample_from=({"behaviour": 1.0},) * 2,
        policies={"behaviour": partial(copied, every=every)},
        reference="behaviour",
        max_tokens=1,
    )
    return online(_policy(), **(defaults | settings))


def _phases(algorithm, *, phases: int, every: int) -> np.ndarray:
    """Probabilities at the end of each phase."""

    def update(state, key):
        record, _ = algorithm.collect(state, _prompts(1), key)
        state, _ = algorithm.step(state, record, key)
        return state, jax.nn.softmax(state.params["logits"][0])

    state = algorithm.init(_policy().init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(0), phases * every)
    return np.asarray(jax.jit(partial(jax.lax.scan, update))(state, keys)[1][every - 1 :: every])


def test_phases_follow_the_law_of_proximal_points():
    """pi_F is proportional to pi_ref exp(F r / beta): nothing but the number of phases holds it."""
    every, beta = 250, 1.0
    settings = dict(
        every=every,
        loss=partial(losses.osp, beta=beta),
        judge=rater,
        select=soft_pair,
        exact=True,
        optimizer=partial(optax.sgd, 2.0),
    )
    found = _phases(_bpo(**settings), phases=5, every=every)
    for phase, pi in enumerate(found, start=1):
        wanted = REFERENCE * np.exp(phase * REWARDS / beta)
        np.testing.assert_allclose(pi, wanted / wanted.sum(), atol=2e-5)
    kl = (found * np.log(found / REFERENCE)).sum(-1)
    np.testing.assert_allclose(found[1], (0.5291, 0.2919, 0.1790), atol=6e-5)
    np.testing.assert_allclose((found @ REWARDS)[[0, 1, 2, 4]], (0.514, 0.675, 0.800, 0.931), atol=6e-4)
    np.testing.assert_allclose(kl[[0, 1, 2, 4]], (0.084, 0.323, 0.632, 1.135), atol=6e-4)


def test_phases_of_bpo_ipo_are_multiplicative_weights():
    """pi_{k+1} is proportional to mu_k exp(P(. > mu_k) / tau): on a cycle it does not settle."""
    tau, every = 0.5, 250
    algorithm = _bpo(
        every=every,
        loss=partial(losses.online_ipo, tau=tau),
        judge=cycle,
        select=soft_pair,
        exact=True,
        optimizer=partial(optax.sgd, 0.5),
    )
    behaviour = REFERENCE
    for found in _phases(algorithm, phases=3, every=every):
        wanted = behaviour * np.exp(np.array(CYCLE) @ behaviour / tau)
        behaviour = wanted / wanted.sum()
        np.testing.assert_allclose(found, behaviour, atol=2e-5)


def test_one_phase_is_offline_learning_on_samples_of_the_initial_policy():
    """F = 1: the same pairs and the same anchor as in DPO on recorded samples, bit for bit."""
    settings = {"loss": partial(losses.dpo, beta=0.3), "optimizer": partial(optax.sgd, 0.5)}
    drawing = _bpo(every=1000, judge=strict, select=two_samples, **settings)
    recorded = offline(_policy(), reference="initial", **settings)
    params = _policy().init(jax.random.key(0))
    first = state = drawing.init(params)
    plain, step, plain_step = recorded.init(params), jax.jit(drawing.step), jax.jit(recorded.step)
    pairs = []
    for i in range(3):
        record, _ = drawing.collect(state, _prompts(32), jax.random.key(i))
        pairs.append(record)
        state, _ = step(state, record, jax.random.key(i))
        pair = Completions(
            record.prompt_tokens, record.prompt_mask, record.response_tokens, record.response_mask
        )
        plain, _ = plain_step(plain, pair, jax.random.key(i))
    moved = np.asarray(state.params["logits"])
    np.testing.assert_array_equal(moved, plain.params["logits"])
    assert moved[0, 0] - moved[0, 2] > np.log(0.2 / 0.5) + 0.05
    # The policy has moved, and still learns from what the initial one says.
    again, _ = drawing.collect(first, _prompts(32), jax.random.key(2))
    np.testing.assert_array_equal(again.response_tokens, pairs[2].response_tokens)


@pytest.mark.parametrize(
    ("loss", "first"),
    [(partial(losses.ipo, tau=0.25), 4.0), (partial(losses.rso_hinge, beta=0.3), 1.0)],
    ids=["ipo", "slic"],
)
def test_margins_of_other_losses_begin_at_zero_in_every_phase(loss, first):
    """BPO-IPO: 1 / (4 tau^2); BPO-SLiC: 1."""
    algorithm = _bpo(every=1, loss=loss, judge=strict, select=two_samples, optimizer=partial(optax.sgd, 0.5))
    params = {"logits": jnp.asarray(np.log(REFERENCE)[None], jnp.float32)}
    state = algorithm.init({"logits": params["logits"] + jnp.array([[0.5, 0.0, -0.5]])})
    metrics = algorithm.evaluate(state, _prompts(4), jax.random.key(0))
    assert float(metrics["loss"].value) == pytest.approx(first, abs=1e-6)
    behind = algorithm.init(params).policies
    metrics = algorithm.evaluate(dataclasses.replace(state, policies=behind), _prompts(4), jax.random.key(0))
    assert float(metrics["loss"].value) < first


def test_a_schedule_of_each_phase():
    schedule = partial(warmup_linear, peak=1.0, warmup_steps=0)
    with lasting(8):
        built = restarted(schedule=schedule, cycles=2)
        with pytest.raises(ValueError, match="cycles"):
            restarted(schedule=schedule, cycles=0)
    np.testing.assert_allclose([built(i) for i in range(9)], [1, 0.75, 0.5, 0.25] * 2 + [1])
