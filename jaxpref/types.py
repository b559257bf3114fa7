"""The batch records that flow from data to losses.

Shapes use the letters of the whole project: `b` prompts, `k` responses to each prompt, `p` prompt
tokens, `r` response tokens. The pair is an axis (`k = 2`, chosen first), never a concatenation on the
batch axis, and the prompt is stored once (design decisions 1 and 2 in `DESIGN.md`).

Records are plain registered dataclasses with no shape check of their own, because a checked pytree
breaks `eval_shape` and `vmap`; call `check_completions` where a record enters the program.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

__all__ = [
    "COLUMNS",
    "OF_FIRST_TWO",
    "Completions",
    "Params",
    "PRNGKey",
    "Prompts",
    "Samples",
    "Segments",
    "check_column",
    "check_completions",
    "check_prompts",
    "check_segments",
    "column_axes",
]

Params = Any  # a pytree of arrays: nested dicts, layers stacked on axis 0
PRNGKey = Key[Array, ""]

# Columns that records may hold beside the tokens, for losses that name them; others are passed on.
COLUMNS = {
    "scores": ("b k", "how good each response is; any scale, higher is better"),
    "labels": ("b k", "1: desirable, 0: undesirable"),
    "ratings": ("b k m", "attributes of each response; NaN where missing"),
    "margins": ("b", "by how much response 0 is better than response 1"),
    "annotators": ("b", "who judged, from 0"),
    "example_ids": ("b", "row of the records, from 0; every batch has it"),
    "weights": ("b", "of the row in every mean over its responses, 0 or more; 1 without this column"),
    "full_lengths": ("b k", "tokens of each response before any was cut, EOS included"),
    "win_rates": ("b k", "P(response beats its opponents), in [0, 1]"),
    "drawn": ("b k", "True for drawn responses, False for recorded ones beside them"),
    "on_policy": ("b k", "True where the policy alone drew the response; absent if it nowhere does"),
    "ended": ("b k", "True where a drawn response ended by itself (EOS)"),
    "behaviour_logps": ("b k", "of a drawn response under what drew it, at temperature 1 (nats)"),
    "behaviour_token_logps": ("b k r", "the same for each scored token, 0 elsewhere"),
    "behaviour_values": ("b k r", "the critic's values of a drawn response before the update"),
    "prompt_embeddings": ("b d", "of the prompt, by any encoder"),
    "signs": ("b o", "of each objective: 1 where response 0 is better, -1 where it is worse, 0 for a tie"),
    "degrees": ("b", "how strongly response 0 is preferred, from 0"),
    "densities": ("b k", "ratio of densities of desirable and undesirable prompts, by a classifier"),
    "step_ids": ("b k r", "which step of a solution each token is of, from 0"),
    "step_weights": ("b k r", "of each token in the mean over a response's steps"),
    "segment_mask": ("b k r", "True on the tokens of the step that is compared"),
    "token_rewards": ("b k r", "of each token, by another model"),
    "token_weights": ("b k r", "of each token's log-ratio"),
    "kl_weights": ("b k r", "of each token's KL"),
    "image_free_logps": ("b k", "log-prob of the response without the image (nats)"),
    "generator_logps": ("b k", "log-prob of the response under the generator (nats)"),
    "returns": ("b k", "summed reward of each segment"),
    "best_returns": ("b k", "of the best segment that could have been"),
    "log_density_ratios": ("b k r", "log of the expert's over the learner's density of each state"),
    "action_values": ("b k r", "Q of each step"),
    "state_values": ("b k r", "V of each step"),
    "next_values": ("b k r", "V after each step"),
}


def column_axes(name: str, value: Any, declared: Mapping[str, str]) -> tuple[str, ...]:
    """Axes of a column: known ones as in `COLUMNS`, others as declared, `b` if there is one axis only.

    Raises:
      ValueError: the further axes were not declared.
    """
    axes = COLUMNS[name][0] if name in COLUMNS else declared.get(name, "b" if np.ndim(value) == 1 else "")
    if not axes:
        raise ValueError(
            f"column {name}: of shape {list(np.shape(value))}, and its axes were not declared; declare them "
            "where the column is added, with_column(name, values, axes='b k') of responses or axes='b d'"
        )
    return tuple(axes.split())


# They compare responses 0 and 1 of a row, and mean nothing where these are others.
OF_FIRST_TWO = ("margins", "pair_preferences", "signs", "degrees")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts to answer, right-padded, with their columns."""

    prompt_tokens: Int[Array, "b p"]
    prompt_mask: Bool[Array, "b p"]  # True on real tokens; a prefix of each row
    columns: dict[str, Array] = dataclasses.field(default_factory=dict)  # [b, ...], of the row
    column_axes: tuple[tuple[str, str], ...] = dataclasses.field(default=(), metadata={"static": True})


class _Responses:
    """What completions and segments have in common: `k` responses to each of `b` rows, and what is scored."""

    columns: dict[str, Array]
    column_axes: tuple[tuple[str, str], ...]

    def axes_of(self, name: str) -> tuple[str, ...]:
        """The axes of a column, such as `("b", "k")`: from `COLUMNS`, or as declared with the column.

        Raises:
          ValueError: a column of two or more axes that were not declared.
        """
        return column_axes(name, self.columns[name], dict(self.column_axes))

    @property
    def mask(self) -> Bool[Array, "b k r"]:
        """True on scored tokens or steps."""
        raise NotImplementedError

    @property
    def lengths(self) -> Int[Array, "b k"]:
        """Scored tokens (steps) of each response."""
        return self.mask.sum(-1)

    @property
    def present(self) -> Bool[Array, "b k"]:
        """True for responses with something scored; lists may be of different lengths."""
        return self.mask.any(-1)

    @property
    def real(self) -> Bool[Array, " b"]:
        """False for rows that only pad the batch: nothing in them is scored."""
        return self.present.any(-1)

    @property
    def response_weights(self) -> Float[Array, "b k"]:
        """Weight of each response in a mean: that of its row (column `weights`, else 1) if present, else
        0."""
        present = self.present.astype(jnp.float32)
        given = self.columns.get("weights")
        return present if given is None else given[:, None] * present

    @property
    def weights(self) -> Float[Array, " b"]:
        """Weight of each row in a mean: its column `weights`, else 1; 0 where of several responses fewer than
        two are present, because nothing can be compared there."""
        k = self.mask.shape[1]
        enough = self.present.sum(-1) >= min(2, k)
        return jnp.where(enough, self.response_weights.max(-1), 0)

    @property
    def valid(self) -> Bool[Array, " b"]:
        """Rows that count: those of a positive weight."""
        return self.weights > 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Completions(_Responses):
    """`k` responses to each of `b` prompts, both right-padded.

    A row whose `response_mask` is False everywhere is padding of the batch: it has no weight in any
    loss or metric. A response whose mask is False everywhere, in a row where others are not, is absent: lists
    may be of different lengths. A prompt of no tokens is allowed if position 0 of its responses is not scored
    (nothing predicts it).
    """

    prompt_tokens: Int[Array, "b p"]
    prompt_mask: Bool[Array, "b p"]  # True on real tokens; a prefix of each row
    response_tokens: Int[Array, "b k r"]
    response_mask: Bool[Array, "b k r"]  # True where a token is scored, EOS included
    reference_logps: Float[Array, "b k"] | None = None  # nats, summed over scored tokens
    preferences: Float[Array, "b k k"] | None = None  # P(i beats j); None: index order is the label
    columns: dict[str, Array] = dataclasses.field(default_factory=dict)  # [b, ...], see `COLUMNS`
    # Axes of columns that `COLUMNS` lacks, such as ("embeddings", "b k d"); one axis is `b`.
    column_axes: tuple[tuple[str, str], ...] = dataclasses.field(default=(), metadata={"static": True})

    @property
    def mask(self) -> Bool[Array, "b k r"]:
        return self.response_mask

    @property
    def num_tokens(self) -> Int[Array, ""]:
        """Each prompt once, and the scored tokens of its responses."""
        return self.prompt_mask.sum() + self.response_mask.sum()

    @property
    def row_columns(self) -> dict[str, Array]:
        """Columns of the prompt and not of its responses."""
        own = {name for name in self.columns if "k" not in self.axes_of(name)}.difference(OF_FIRST_TWO)
        return {name: value for name, value in self.columns.items() if name in own}

    @property
    def prompts(self) -> Prompts:
        """The prompts, with their columns."""
        return Prompts(self.prompt_tokens, self.prompt_mask, self.row_columns, self.column_axes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segments(_Responses):
    """`k` stretches of behaviour to each of `b` rows, right-padded in time: control, states, routes.

    Observations and actions are vectors or, in finite worlds, the numbers of states and actions (int). A
    policy's `token_logps` are the log-probs of the actions, one a step; every loss of log-probs takes them.
    """

    observations: Float[Array, "b k t *o"] | Int[Array, "b k t"]  # before each action
    actions: Float[Array, "b k t *a"] | Int[Array, "b k t"]
    step_mask: Bool[Array, "b k t"]  # True on real steps; a prefix of each segment
    reference_logps: Float[Array, "b k"] | None = None  # nats, summed over steps
    preferences: Float[Array, "b k k"] | None = None  # P(i beats j); None: index order is the label
    columns: dict[str, Array] = dataclasses.field(default_factory=dict)  # [b, ...], see `COLUMNS`
    column_axes: tuple[tuple[str, str], ...] = dataclasses.field(default=(), metadata={"static": True})

    @property
    def mask(self) -> Bool[Array, "b k t"]:
        return self.step_mask

    @property
    def num_tokens(self) -> Int[Array, ""]:
        """Real steps."""
        return self.step_mask.sum()


class Samples(NamedTuple):
    """Responses drawn by a policy or a mixture of policies, with log-probs of them (nats, 0 where masked)."""

    completions: Completions  # reference_logps: `token_logps` summed over the response
    # Under the policy, or the mixture itself, at temperature 1 and untruncated; of a policy these are what
    # `Policy.token_logps` would give.
    token_logps: Float[Array, "b k r"]
    # Of the distribution sampled from (temperature, top-k, top-p).
    sampling_token_logps: Float[Array, "b k r"]
    # Under each member of the mixture, as its own `Policy.token_logps` would give; m = 1 without a mixture.
    member_token_logps: Float[Array, "m b k r"]
    ended: Bool[Array, "b k"]  # by EOS; the others stopped at the most tokens allowed


def _check(name: str, array: Any, rank: int, kind: str) -> None:
    if np.ndim(array) != rank:
        raise ValueError(f"{name}: expected {rank} axes, got shape {np.shape(array)}")
    dtype = np.dtype(array.dtype)
    if dtype.kind not in kind:
        names = {"b": "bool", "iu": "an integer type", "f": "a float type"}
        raise ValueError(f"{name}: expected {names[kind]}, got {dtype}")


def _check_prefix(name: str, mask: np.ndarray) -> None:
    broken = np.flatnonzero((np.diff(mask.astype(np.int8), axis=-1) > 0).any(-1))
    if broken.size:
        raise ValueError(
            f"{name}: row {broken[0]} is not right-padded (True follows False); put the padding last"
        )


def check_prompts(prompts: Prompts | Completions, vocab_size: int | None = None) -> None:
    """Raises ValueError that says which field is wrong, what was expected and what was given.

    Host side only: it reads the values. `vocab_size`: also checks that tokens are in `[0, vocab_size)`.
    """
    _check("prompt_tokens", prompts.prompt_tokens, 2, "iu")
    _check("prompt_mask", prompts.prompt_mask, 2, "b")
    tokens, mask = np.asarray(prompts.prompt_tokens), np.asarray(prompts.prompt_mask)
    if tokens.shape != mask.shape:
        raise ValueError(f"prompt_mask: expected the shape of prompt_tokens {tokens.shape}, got {mask.shape}")
    _check_prefix("prompt_mask", mask)
    _check_range("prompt_tokens", tokens, vocab_size)


def _check_range(name: str, tokens: np.ndarray, vocab_size: int | None) -> None:
    if vocab_size is not None and tokens.size and (tokens.min() < 0 or tokens.max() >= vocab_size):
        raise ValueError(
            f"{name}: ids span [{tokens.min()}, {tokens.max()}] but the model has a vocabulary of "
            f"{vocab_size}; the records were made with another tokenizer"
        )


def check_column(name: str, value: np.ndarray, axes: Sequence[str], sizes: dict[str, int]) -> None:
    axes = list(axes)
    wanted = [sizes.get(axis) for axis in axes]
    fits = value.ndim >= len(axes) and all(w in (None, n) for w, n in zip(wanted, value.shape, strict=False))
    if not fits or value.ndim != len(axes):
        raise ValueError(f"column {name}: expected shape [{', '.join(axes)}] with {sizes}, got {value.shape}")
    if name == "labels" and not np.isin(value, (0, 1)).all():
        odd = value[~np.isin(value, (0, 1))][0]
        raise ValueError(f"column labels: expected 0 (undesirable) or 1 (desirable), got {odd}")
    if name in ("annotators", "example_ids") and (value < 0).any():
        raise ValueError(f"column {name}: expected ids from 0, got {value.min()}")
    if name == "weights" and (value < 0).any():
        raise ValueError(
            f"column weights: expected 0 or more, got {value.min()} in row {np.flatnonzero(value < 0)[0]}"
        )
    if value.dtype.kind == "f" and name != "ratings" and not np.isfinite(value).all():
        raise ValueError(f"column {name}: row {np.argwhere(~np.isfinite(value))[0][0]} is not finite")


def check_completions(batch: Completions, vocab_size: int | None = None) -> None:
    """`check_prompts`, and the same for the responses and the optional columns."""
    check_prompts(batch, vocab_size)
    _check("response_tokens", batch.response_tokens, 3, "iu")
    _check("response_mask", batch.response_mask, 3, "b")
    tokens, mask = np.asarray(batch.response_tokens), np.asarray(batch.response_mask)
    (b, k, _), p = tokens.shape, np.shape(batch.prompt_tokens)[1]
    if tokens.shape != mask.shape:
        raise ValueError(
            f"response_mask: expected the shape of response_tokens {tokens.shape}, got {mask.shape}"
        )
    if np.shape(batch.prompt_tokens)[0] != b:
        raise ValueError(f"response_tokens: {b} rows for {np.shape(batch.prompt_tokens)[0]} prompts")
    unprompted = (
        mask[:, :, :1].any((1, 2)) & ~np.asarray(batch.prompt_mask).any(-1) if p else mask[:, :, 0].any(-1)
    )
    if unprompted.any():
        raise ValueError(
            f"response_mask: row {np.flatnonzero(unprompted)[0]} has an empty prompt and scores the first "
            "response token, which nothing predicts; give a prompt (BOS will do) or mask position 0"
        )
    _check_range("response_tokens", tokens, vocab_size)
    for name, shape in (("reference_logps", (b, k)), ("preferences", (b, k, k))):
        value = getattr(batch, name)
        if value is None:
            continue
        _check(name, value, len(shape), "f")
        if np.shape(value) != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {np.shape(value)}")
        if not np.isfinite(np.asarray(value)).all():
            row = np.argwhere(~np.isfinite(np.asarray(value)))[0][0]
            raise ValueError(f"{name}: row {row} is not finite; recompute the column")
    for name, value in batch.columns.items():
        check_column(name, np.asarray(value), batch.axes_of(name), {"b": b, "k": k, "r": tokens.shape[2]})
    if batch.preferences is not None:
        pref = np.asarray(batch.preferences)
        if (
            (pref < 0).any()
            or (pref > 1).any()
            or np.abs(pref + pref.swapaxes(1, 2) - 1).max(initial=0) > 1e-3
        ):
            raise ValueError("preferences: expected probabilities with P(i beats j) + P(j beats i) = 1")


def check_segments(batch: Segments) -> None:
    """Raises ValueError that says which field is wrong, what was expected and what was given. Host side."""
    _check("step_mask", batch.step_mask, 3, "b")
    mask = np.asarray(batch.step_mask)
    (b, k, _), sizes = mask.shape, dict(zip("bkr", mask.shape, strict=True))
    _check_prefix("step_mask", mask)
    for name in ("observations", "actions"):
        value = np.asarray(getattr(batch, name))
        if value.shape[:3] != mask.shape:
            raise ValueError(f"{name}: expected [b, k, t, ...] with {mask.shape}, got {value.shape}")
        if value.dtype.kind == "f" and not np.isfinite(value[mask]).all():
            row = next(i for i in range(b) if not np.isfinite(value[i][mask[i]]).all())
            raise ValueError(f"{name}: row {row} has a number that is not finite")
    for name, shape in (("reference_logps", (b, k)), ("preferences", (b, k, k))):
        value = getattr(batch, name)
        if value is not None and (np.shape(value) != shape or not np.isfinite(np.asarray(value)).all()):
            raise ValueError(f"{name}: expected finite numbers {shape}, got {np.shape(value)}")
    if batch.preferences is not None:
        outside = (np.asarray(batch.preferences) < 0) | (np.asarray(batch.preferences) > 1)
        if outside.any():
            row = np.argwhere(outside)[0][0]
            raise ValueError(f"preferences: row {row} has a probability outside [0, 1]")
    for name, value in batch.columns.items():
        check_column(name, np.asarray(value), batch.axes_of(name), sizes)
