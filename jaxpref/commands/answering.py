"""Commands that answer prompts."""

import sys
from typing import Any

import jax
import numpy as np

from jaxpref import keys
from jaxpref.commands.opening import Options, aside, load, say_changes
from jaxpref.data.text.boundary import prompt_ids
from jaxpref.training import distributed
from jaxpref.training.evaluation import context_of
from jaxpref.training.params import trained_params
from jaxpref.training.run import open_run
from jaxpref.types import Prompts

__all__ = ["sample"]


def sample(options: Options) -> int:
    distributed.initialize()
    experiment, workdir, _ = load(options)
    run = open_run(experiment, workdir, log=aside)
    say_changes(run)
    params = trained_params(run, stage=options.stage, step=options.step)
    context, tokenizer = context_of(run, params, stage=experiment.stages[-1]), run.tokenizer
    if tokenizer is None:
        raise ValueError(f"{experiment.name}: this policy reads no text, so it cannot answer a prompt")
    rows = [prompt_ids(tokenizer, prompt) for prompt in options.prompt]
    padded = rows + [rows[0]] * (context.rows(len(rows)) - len(rows))
    # Lengths in powers of two, so that another prompt seldom compiles again.
    width = max(16, 1 << (max(map(len, padded)) - 1).bit_length())
    # Numpy arrays where types say jax's: `put` takes both.
    tokens: Any = np.full((len(padded), width), tokenizer.pad_id, np.int32)
    mask: Any = np.zeros(tokens.shape, bool)
    for i, row in enumerate(padded):
        tokens[i, : len(row)], mask[i, : len(row)] = row, True
    out = context.policy.sample(
        context.params,
        context.put(Prompts(tokens, mask)),
        keys.key(options.seed, None, "samples"),
        num_samples=options.num_samples,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
    )
    fetched = out.completions.response_tokens, out.completions.response_mask, out.ended
    answers, kept, ended = context.fetch(fetched)
    if jax.process_index() > 0:
        return 0
    for i, prompt in enumerate(options.prompt):
        for j in range(options.num_samples):
            ids = answers[i, j][kept[i, j]].tolist()
            answer = tokenizer.decode(ids[:-1] if ended[i, j] else ids)
            print(f"{prompt}\033[1m{answer}\033[0m" if sys.stdout.isatty() else prompt + answer)
    return 0
