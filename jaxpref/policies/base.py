"""What a policy is: pure functions of a params pytree."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpref import keys
from jaxpref.trees import clashes, joined
from jaxpref.types import Completions, Params, PRNGKey, Prompts, Samples

__all__ = [
    "Members",
    "Model",
    "Policy",
    "Quantities",
    "Sample",
    "answers_no_prompts",
    "categorical",
    "check_records",
    "model_of",
    "no_log_probs",
    "whole",
    "with_noise",
    "without_constants",
]


class Sample(Protocol):
    """Responses to prompts (`sampling.decode`).

    With `weights` (traced: sweeping them compiles nothing), `params` is a tuple of m params and each token is
    drawn from `softmax(sum_m weights_m logits_m)`; each response may have weights of its own. Randomness is a
    function of the key, the row's id (its index by default), the sample and the place.
    """

    def __call__(
        self,
        params: Params,
        prompts: Prompts,
        key: PRNGKey,
        *,
        num_samples: int = 1,
        max_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        row_ids: Int[Array, " b"] | None = None,
        weights: Float[Array, "#b #k m"] | None = None,
    ) -> Samples: ...


class Quantities(Protocol):
    """`Policy.quantities`."""

    def __call__(
        self,
        params: Params,
        batch: Any,
        names: tuple[str, ...],
        reference_params: Params | None,
        key: PRNGKey | None,
        /,
    ) -> dict[str, Array]: ...


class Model(NamedTuple):
    """Params that are not trained here: a judge, a critic, a stronger policy, the base below adapters."""

    params: Params  # host arrays, or lazy ones (`models.hub.lazy`)
    axes: Any  # logical axis names, as `Policy.axes()`


class Members(NamedTuple):
    """What a policy is an ensemble of: sets of params, on the first axis, that learn apart and act as one."""

    size: int
    policy: "Policy"  # what each of them is trained as
    average: Callable[[Params], Params]  # params of `policy` that do what all of them together do


class Policy(NamedTuple):
    """A language model, a controller or a table, as pure functions.

    `token_logps` is the primitive rather than its sum, because token-level and discounted objectives
    need the terms; it is float32 and exactly 0 where the batch's `mask` is False. Of `Segments` it gives the
    log-probs of actions, one a step; a controller has no `sample` of text, and `vocab_size` is how many
    actions there are (0: actions are vectors). For a policy that is no distribution, such as scores of
    responses, it is `no_log_probs`.
    """

    init: Callable[[PRNGKey], Params]
    token_logps: Callable[[Params, Any], Float[Array, "b k r"]]  # of `Completions` or `Segments`
    sample: Sample
    axes: Callable[[], Any]  # the tree of `params` with a tuple of logical axis names for each array
    flops: Callable[[Any], float]  # of one forward pass of `token_logps`, from shapes alone
    vocab_size: int
    # `(params, batch, loss, data) -> (loss(token_logps, data), token_logps)`, where the gradient may be had
    # cheaper than through `token_logps`: for losses that take each example by itself.
    summed_loss: Callable[..., tuple[Array, Array]] | None = None
    # `(params, batch, names, reference_params, key) -> {name: array}` in one forward pass, of the names in
    # `offers` and "token_logps"; a KL is to `reference_params`. The key is for policies that need noise,
    # such as a diffusion's; the policy and its reference get the same one.
    quantities: Quantities | None = None
    # What `quantities` gives: statistics `[b, k, r]` (`kernels.token_logps.STATISTICS`), "hidden_states"
    # `[b, k, r, d]`, outputs of a head: "embeddings" `[b, k, m]`, "values" `[b, k, r]`; or names of its own.
    offers: tuple[str, ...] = ()
    outputs: int = 0  # m: outputs of its head for each response; 0: it has none
    model: Any = None  # the `models.transformer.Transformer` that it computes with, if it is one
    end_ids: tuple[int, ...] = ()  # tokens that end a response
    # One response to each prompt, a few tokens at a time (`sampling.streamer`): `(params, prompts, key,
    # max_tokens=, temperature=, top_k=, top_p=, at_once=)` gives `sampling.Arrived` after `sampling.Arrived`.
    stream: Callable[..., Iterator[Any]] | None = None
    # All responses there are to each prompt, for exact expectations; None: too many to list.
    enumerate: Callable[[Prompts], Completions] | None = None
    # Controllers: `(params, observations [*rows, ...], key) -> actions [*rows, ...]`; no key: the likeliest.
    act: Callable[[Params, Array, PRNGKey | None], Array] | None = None
    # Why `token_logps` of these params (host arrays) are not finite, if it knows, and what to do about it:
    # what a run that stops for that says.
    explain: Callable[[Params], str | None] | None = None
    # What `check_records` looks at beyond the vocabulary.
    check: Callable[[Any], None] | None = None
    # Loads arrays that belong to the policy and are not trained, such as a base model below adapters: a tree
    # of dicts beside that of the params. All functions above get both as one tree (`whole`).
    constants: Callable[[], Model] | None = None
    # Loads those params (host arrays) that start from given values instead of from `init`, a part of its
    # tree: the weights of a base that are trained.
    given: Callable[[], Params] | None = None
    # Names of the arrays that `init` adds to what pretrained weights have: a head, adapters.
    adds: tuple[str, ...] = ()
    # Whether a step of training has noise of its own (dropout), by a key beside the params (`with_noise`).
    noisy: bool = False
    # FLOPs of a backward pass in forward passes: 2 where all weights are trained, 1 below which none are.
    backward: float = 2.0
    # Set for an ensemble, whose params are those of its members; the functions above act as their average.
    members: Members | None = None


def whole(params: Params, constants: Mapping[str, Params]) -> Params:
    """`params` joined with the policy's own constants: the entry "policy" among the constants of a run.

    Both are trees of dicts, in which arrays of the two may lie side by side.

    Raises:
      ValueError: both have an array of the same name.
    """
    if "policy" not in constants:
        return params
    both = sorted(clashes(params, constants["policy"]))
    if both:
        raise ValueError(f"params and constants of the policy both have {both}; an array is one or the other")
    return joined(params, constants["policy"])


def with_noise(policy: Policy, params: Params, key: PRNGKey) -> Params:
    """The params of a step of training. Samplers, references and evaluation never see the key."""
    return params | {"noise": keys.fold(key, "noise")} if policy.noisy else params


def without_constants(policy: Policy, name: str) -> None:
    """For algorithms that take a policy's params as they are.

    Raises:
      ValueError: the policy keeps constants beside its params.
    """
    if policy.constants is not None:
        raise ValueError(
            f"{name}: this policy has constants beside its params, which sft and offline take alone"
        )


def model_of(policy: Policy, params: Params) -> Model:
    """A policy as a model that is not trained, with its constants in it."""
    if policy.constants is None:
        return Model(params, policy.axes())
    base = policy.constants()
    return Model(whole(params, {"policy": base.params}), joined(policy.axes(), base.axes))


def check_records(policy: Policy, records: Any) -> None:
    """Host side: raises ValueError for records that the policy cannot read, or would misread."""
    records.check_vocab(policy.vocab_size)
    if policy.check is not None:
        policy.check(records)


def no_log_probs(*_: Any, **__: Any) -> Array:
    """`Policy.token_logps` of a policy that is no distribution."""
    raise ValueError(
        "this policy scores responses, it is no distribution and has no log-probs: train it with a loss of "
        "rewards or embeddings, or use another policy"
    )


def categorical(key: PRNGKey, logits: Float[Array, "*n v"]) -> Int[Array, "*n"]:
    """`jax.random.categorical` in float32 or better: its noise has the type of the logits, and the few
    uniform numbers of bfloat16 never draw most of many items (`findings/`)."""
    return jax.random.categorical(key, logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))


def answers_no_prompts(*_: Any, **__: Any) -> Samples:
    """`Policy.sample` of a controller."""
    raise ValueError("this policy acts on observations (`act`) and answers no prompts")
