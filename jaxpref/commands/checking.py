"""Is a folder of the hub read right: `jaxpref check-model`."""

import math
import pathlib
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from jaxpref import keys
from jaxpref.commands.opening import Options
from jaxpref.commands.outside import check_transformers, transformers_ids, transformers_logits
from jaxpref.commands.speaking import Speaker, check_no_run, model_of_folder, open_speaker
from jaxpref.data import hf_tokenizer
from jaxpref.data.text.boundary import prompt_ids
from jaxpref.kernels.token_logps import linear_logits
from jaxpref.models.hub.config import Described, described
from jaxpref.models.hub.export import family_of
from jaxpref.models.hub.lazy import LazyArray
from jaxpref.models.hub.weights import file_tensors, hf_weights
from jaxpref.models.scoring import predicting_states
from jaxpref.models.transformer import Transformer, unembedding
from jaxpref.policies.base import Policy
from jaxpref.training import sharding
from jaxpref.types import Completions, Params

__all__ = ["check_model"]

# A text that is in no corpus, and that any model of English finds likelier than chance.
_TEXT = (
    "The ferry to the island leaves at nine in the morning, and the last one comes back before it is dark. "
    "If the wind is strong, it does not leave at all, so it is better to call the harbour the day before."
)
_TOLERANCE = 1e-4  # of the largest logit: see `_against`
_LENGTH = 512  # of the sequence that is drawn, or as many as cross a window
_KEPT = 64  # positions at the end of the long sequence whose logits are compared


class _Line(NamedTuple):
    what: str
    found: str
    right: bool = True


def check_model(options: Options) -> int:
    path = options.file
    if not pathlib.Path(path).is_dir():
        raise ValueError(f"{path}: no such folder; give one of the hub (config.json, *.safetensors)")
    check_no_run(path)
    if options.against_transformers:
        check_transformers()
    folder = described(path)
    if folder.outputs and options.against_transformers:
        raise ValueError(
            f"--against-transformers compares logits of language models, and {path} is a reward model; leave "
            "the option out"
        )
    failed = False
    for line in _lines(options, folder):
        print(f"{'' if line.right else 'WRONG '}{line.what:20s} {line.found}", flush=True)
        failed |= not line.right
    print(f"{path}: {'NOT right' if failed else 'right'}")
    return 1 if failed else 0


def _lines(options: Options, folder: Described) -> Iterator[_Line]:
    yield from _written(folder)
    yield _round_trip(options.file, folder)
    if folder.outputs:
        yield from _scores(options, folder)
        return
    if options.against_transformers and options.dtype is None:
        options.dtype = "float32"
    has_tokenizer = (pathlib.Path(options.file) / "tokenizer.json").is_file()
    if has_tokenizer:
        speaker = open_speaker(options)
        model = speaker.policy, speaker.params, speaker.mesh
        yield from _spoken_of(speaker, folder)
        ids = prompt_ids(speaker.tokenizer, _TEXT)
    else:
        model = model_of_folder(options)
        yield _Line("tokenizer", "none (no tokenizer.json), so what follows is of ids drawn at random")
        ids = np.random.default_rng(0).integers(0, folder.sizes.vocab, 64).tolist()
    ids = ids[: folder.sizes.longest]
    yield _likelihood(*model, ids, ids_of_text=has_tokenizer)
    if has_tokenizer:
        yield _greedy(speaker, options)
    if options.against_transformers:
        yield from _against(options.file, *model, ids)
        if has_tokenizer:
            yield from _tokens_against(options.file, speaker)


def _written(folder: Described) -> Iterator[_Line]:
    """What the folder says of itself."""
    sizes, tensors = folder.sizes, folder.tensors or {}
    count = sum(x.size for x in tensors.values())
    dtypes = Counter(str(x.dtype) for x in tensors.values())
    yield _Line("family", f"{folder.family.model_type} ({folder.family.architecture})")
    yield _Line(
        "tensors",
        f"{len(tensors)}, {count:,} numbers, {', '.join(f'{n} of {dtype}' for dtype, n in dtypes.items())}",
    )
    yield _Line(
        "layers",
        f"{sizes.layers} of width {sizes.embed}, {sizes.heads} heads of {sizes.head_dim} "
        f"({sizes.kv_heads} of keys)",
    )
    if folder.outputs:
        yield _Line("head", f"scores, {folder.outputs} of the last token; no unembedding")
    else:
        yield _Line("unembedding", "the embedding (tied)" if sizes.tied else "a matrix of its own")


def _round_trip(path: str, folder: Described) -> _Line:
    """Folder -> params -> the tensors of a folder, compared with the first by name, dtype and bytes."""
    assert folder.tensors is not None
    family_of(folder.sizes, folder.config)  # raises where the configuration would not survive
    made = dict(file_tensors(folder.family, hf_weights(path), folder.sizes))
    wrong = []
    total = sum(x.nbytes for x in made.values())
    with tqdm(
        total=total,
        unit="B",
        unit_scale=True,
        desc="round trip",
        disable=not sys.stderr.isatty(),
        leave=False,
    ) as bar:
        for name, array in made.items():
            if not _same_bytes(array, folder.tensors.get(name)):
                wrong.append(name)
            bar.update(array.nbytes)
    beside = sorted(folder.tensors.keys() - made.keys())
    said = (
        f", beside {', '.join(beside[:3])}{', ...' * (len(beside) > 3)}, which is no weight" if beside else ""
    )
    if wrong:
        return _Line("round trip", f"{len(wrong)} tensors differ, such as {wrong[0]}", False)
    return _Line("round trip", f"{len(made)} tensors, {total:,} bytes, all the same{said}")


def _same_bytes(made: LazyArray, given: LazyArray | None) -> bool:
    if given is None or made.shape != given.shape or made.dtype != given.dtype:
        return False
    rows = max(1, (1 << 24) // max(1, made.nbytes // max(1, len(made)))) if made.ndim else 1
    if not made.ndim:
        return made[...].tobytes() == given[...].tobytes()
    return all(
        np.array_equal(made[i : i + rows].view(np.uint8), given[i : i + rows].view(np.uint8))
        for i in range(0, len(made), rows)
    )


def _spoken_of(speaker: Speaker, folder: Described) -> Iterator[_Line]:
    """Tokenizer, ends and template."""
    tokenizer, vocab = speaker.tokenizer, folder.sizes.vocab
    padded = vocab - tokenizer.vocab_size
    yield _Line(
        "vocabulary", f"{vocab} rows, {tokenizer.vocab_size} ids{f', {padded} padded' * (padded > 0)}"
    )
    ends = speaker.policy.end_ids
    yield _Line("ends", f"{', '.join(map(str, ends))}; BOS {tokenizer.bos_id}, padding {tokenizer.pad_id}")
    trip = tokenizer.decode(tokenizer.encode(_TEXT))
    yield _Line(
        "tokenizer", "a text comes back as it was" if trip == _TEXT else f"a text comes back as {trip[:60]!r}"
    )
    try:
        ids = speaker.conversation([{"role": "user", "content": "Hello"}])
        yield _Line("template", f"a first turn is {len(ids)} tokens")
    except ValueError as error:
        yield _Line("template", f"none: {' '.join(str(error).split())}")


def _scores(options: Options, folder: Described) -> Iterator[_Line]:
    """A reward model: what its head gives is finite."""
    policy, params, mesh = model_of_folder(options)
    if (pathlib.Path(options.file) / "tokenizer.json").is_file():
        ids = prompt_ids(hf_tokenizer(options.file), _TEXT)
    else:
        ids = np.random.default_rng(0).integers(0, folder.sizes.vocab, 64).tolist()

    def head(params: Params, batch: Completions) -> jax.Array:
        assert policy.quantities is not None
        return policy.quantities(params, batch, ("embeddings",), None, None)["embeddings"]

    batch = _row(np.asarray([ids[: folder.sizes.longest]]))
    scores = np.asarray(sharding.on_mesh(head, mesh)(params, batch))[0, 0]
    found = f"{', '.join(f'{score:.4f}' for score in scores)} at the end of a text"
    yield _Line("scores", found, bool(np.isfinite(scores).all()))
    yield _Line("text", "not looked at (template, ends, log-prob, greedy): a reward model writes none")


def _likelihood(
    policy: Policy, params: Params, mesh: jax.sharding.Mesh, ids: list[int], *, ids_of_text: bool
) -> _Line:
    """The forward pass: finite, and better than a guess where the text is one."""
    batch, score = _row(np.asarray([ids])), sharding.on_mesh(policy.token_logps, mesh)
    logps = np.asarray(score(params, batch), np.float64)[0, 0]
    mean, guess = logps.mean(), -math.log(policy.vocab_size)
    found = f"{mean:.4f} nats a token over {len(logps)} (a guess: {guess:.2f})"
    if ids_of_text and mean < guess:
        found += "; worse than a guess: a model of another language, or not its tokenizer"
    return _Line("mean log-prob", found, bool(np.isfinite(logps).all()))


def _greedy(speaker: Speaker, options: Options) -> _Line:
    """What it says, by its template if it has one."""
    try:
        prompt = options.prompt or "What is the capital of France?"
        ids, goes_on = speaker.conversation([{"role": "user", "content": prompt}]), False
    except ValueError:
        prompt = options.prompt or "The capital of France is"
        ids, goes_on = prompt_ids(speaker.tokenizer, prompt), True
    key, longest = keys.key(0, None, "samples"), speaker.policy.model.sizes.longest
    most = min(options.max_tokens, (longest or math.inf) - len(ids))
    if most < 1:
        return _Line("greedy text", f"none: {prompt!r} fills the {longest} tokens of the model")
    parts = speaker.stream(ids, key, goes_on=goes_on, max_tokens=most, temperature=0.0)
    return _Line("greedy text", f"{prompt!r} -> {''.join(part for part, _ in parts)!r}")


def _against(
    path: str, policy: Policy, params: Params, mesh: jax.sharding.Mesh, ids: list[int]
) -> Iterator[_Line]:
    """Logits beside those of transformers, on the text and on ids drawn at random that cross a window.

    What is compared is the largest difference divided by the largest logit, if that is above 1: float32 keeps
    a share of a number, and logits are between units (Llama) and hundreds (GPT-2).
    """
    sizes = policy.model.sizes
    length = max(_LENGTH, min(sizes.sliding_window or 0, 4096) + 64 * (sizes.sliding_window is not None))
    length = min(length, sizes.longest or length)
    drawn = np.random.default_rng(1).integers(0, sizes.vocab, length)
    for name, row in (("the text", np.asarray(ids)), (f"{length} random ids", drawn)):
        keep = min(_KEPT, len(row) - 1)
        ours = _logits(policy.model, params, mesh, row[None], keep)
        version, theirs = transformers_logits(path, row[None], keep=keep)
        theirs = theirs[..., : ours.shape[-1]]
        scale, largest = max(1.0, float(np.abs(theirs).max())), float(np.abs(ours - theirs).max())
        found = f"{largest:.2e} of logits up to {scale:.1f} apart on {name} (the last {keep} positions)"
        yield _Line(f"transformers {version}", found, largest <= _TOLERANCE * scale)


def _tokens_against(path: str, speaker: Speaker) -> Iterator[_Line]:
    """Ids beside those of transformers, of a text and of a turn in the template."""
    text, turn = transformers_ids(path, _TEXT)
    same = text == prompt_ids(speaker.tokenizer, _TEXT)
    yield _Line("its tokens", "the same ids of the text" if same else "other ids of the text", same)
    if turn is not None:
        same = turn == speaker.conversation([{"role": "user", "content": _TEXT}])
        yield _Line("its template", "the same ids of a turn" if same else "other ids of a turn", same)


def _logits(
    model: Transformer, params: Params, mesh: jax.sharding.Mesh, tokens: np.ndarray, keep: int
) -> np.ndarray:
    """Of the `keep` positions before the last one."""
    with jax.default_matmul_precision("highest"):  # not TF32 nor bfloat16
        return np.asarray(sharding.OnMesh(_last_logits, mesh)(model, keep, params, _row(tokens)), np.float32)


@partial(jax.jit, static_argnums=(0, 1))
def _last_logits(model: Transformer, keep: int, params: Params, batch: Completions) -> jax.Array:
    states = predicting_states(model, params, batch)[:, 0, -keep:]
    return linear_logits(states, unembedding(params), soft_cap=model.sizes.logit_soft_cap)


def _row(tokens: np.ndarray) -> Completions:
    """The first token as the prompt, the others as its response."""
    tokens = tokens.astype(np.int32)
    mask: Any = np.ones(tokens.shape, bool)
    given: Any = tokens
    return Completions(given[:, :1], mask[:, :1], given[:, None, 1:], mask[:, None, 1:])
