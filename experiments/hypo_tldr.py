"""HyPO on TL;DR summaries at full size, and DPO beside it.

Supervised fine-tuning on the summaries that people wrote, then human comparisons with DPO's loss, and two
unlabelled samples of the policy for each prompt to hold its KL to the fine-tuned model. What the paper
reports is that DPO's KL on validation prompts grows where HyPO's stays lower, at a higher win rate.

Paper     Song et al. (2024), arXiv:2406.01462 (TL;DR, Pythia 1.4B and 2.8B); data Stiennon et al. (2020),
          arXiv:2009.01325.
Run       tpu_scripts/run.sh -- jaxpref train experiments/hypo_tldr.py data_root=DIR gguf=/path/model.gguf
          DIR holds the four files that experiments/_tldr.py describes and makes of the public ones.
          gguf= takes any Llama-architecture GGUF file (weights, sizes and tokenizer come from it). Without
          it the model has Pythia's shape (`size`) and RANDOM weights, with tokenizer_json= for the ids: a dry
          run of memory and speed, whose results mean nothing.
Change    kl_weight=1e-3 num_samples=4 size=2.8b mesh.fsdp=16
Ablation  jaxpref sweep experiments/hypo_tldr.py:sweep_methods data_root=DIR gguf=/path/model.gguf
          jaxpref sweep experiments/hypo_tldr.py:sweep_sizes data_root=DIR
Cost      not measured: no pod has run it yet.
Expect    not yet reproduced.

beta, kl_weight, the learning rate and the number of samples are from memory of the paper: not verified, and
so parameters. Differs from the paper: all parameters are trained, where it trains adapters (LoRA), which this
code base does not have; a learning rate for adapters may be too high for that. Samples are drawn at
temperature 1, at which the gradient is that of the KL; responses end after 53 tokens, EOS included.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from _tldr import RESPONSE_LENGTH, tldr_comparisons, tldr_demonstrations

from jaxpref import losses
from jaxpref.algorithms import offline, online, sft
from jaxpref.algorithms.optimizers import adamw, warmup_cosine, warmup_linear
from jaxpref.data import gguf_tokenizer, hf_tokenizer
from jaxpref.evals import generation, reward_accuracy, sampled_kl
from jaxpref.experiment import Experiment, MeshShape, Stage
from jaxpref.models.gguf import gguf_sizes, gguf_weights
from jaxpref.models.sizes import pythia_1_4b, pythia_2_8b
from jaxpref.policies.transformer import transformer

PEAK = 3e-6  # not verified
STEPS = 1_400  # about one pass over the comparisons


def experiment(
    *,
    data_root: str = "data/tldr",
    gguf: str | None = None,
    size: Literal["1.4b", "2.8b"] = "1.4b",
    tokenizer_json: str = "tokenizer.json",
    eos_id: int = 0,
    kl_weight: float = 1e-4,
    beta: float = 0.05,
    num_samples: int = 2,
    num_steps: int = STEPS,
    sft_steps: int = 1_800,
    batch_size: int = 64,
    microbatches: int = 1,
    fsdp: int = -1,
    tensor: int = 1,
    seed: int = 0,
) -> Experiment:
    """HyPO. `eos_id` must be that of the tokenizer (0 is Pythia's)."""
    return _after_sft(
        name="hypo_tldr",
        algorithm=partial(
            online,
            loss=partial(losses.hypo, beta=beta, kl_weight=kl_weight),
            sample_from=({"policy": 1.0},) * num_samples,
            hybrid=True,
            max_tokens=RESPONSE_LENGTH,
            optimizer=_optimizer(),
            microbatches=microbatches,
        ),
        data_root=data_root,
        gguf=gguf,
        size=size,
        tokenizer_json=tokenizer_json,
        eos_id=eos_id,
        num_steps=num_steps,
        sft_steps=sft_steps,
        batch_size=batch_size,
        microbatches=microbatches,
        mesh=MeshShape(data=1, fsdp=fsdp, tensor=tensor),
        seed=seed,
    )


def dpo(
    *,
    data_root: str = "data/tldr",
    gguf: str | None = None,
    size: Literal["1.4b", "2.8b"] = "1.4b",
    tokenizer_json: str = "tokenizer.json",
    eos_id: int = 0,
    beta: float = 0.05,
    num_steps: int = STEPS,
    sft_steps: int = 1_800,
    batch_size: int = 64,
    microbatches: int = 1,
    fsdp: int = -1,
    tensor: int = 1,
    seed: int = 0,
) -> Experiment:
    """DPO on the same comparisons, from the same model."""
    return _after_sft(
        name="hypo_tldr_dpo",
        algorithm=partial(
            offline,
            loss=partial(losses.dpo, beta=beta),
            optimizer=_optimizer(),
            microbatches=microbatches,
        ),
        data_root=data_root,
        gguf=gguf,
        size=size,
        tokenizer_json=tokenizer_json,
        eos_id=eos_id,
        num_steps=num_steps,
        sft_steps=sft_steps,
        batch_size=batch_size,
        microbatches=microbatches,
        mesh=MeshShape(data=1, fsdp=fsdp, tensor=tensor),
        seed=seed,
    )


def sweep_methods(*, data_root: str = "data/tldr", gguf: str | None = None) -> list[Experiment]:
    """DPO, and HyPO with smaller and larger prices of the KL."""
    hybrids = [experiment(data_root=data_root, gguf=gguf, kl_weight=weight) for weight in (1e-5, 1e-4, 1e-3)]
    return [dpo(data_root=data_root, gguf=gguf), *hybrids]


def sweep_sizes(*, data_root: str = "data/tldr", tokenizer_json: str = "tokenizer.json") -> list[Experiment]:
    """The two sizes of the paper."""
    return [
        experiment(data_root=data_root, tokenizer_json=tokenizer_json, size=size) for size in ("1.4b", "2.8b")
    ]


def _optimizer() -> Callable[..., Any]:
    return partial(adamw, schedule=partial(warmup_linear, peak=PEAK, warmup_steps=0))


def _after_sft(
    *,
    name: str,
    algorithm: Callable[..., Any],
    data_root: str,
    gguf: str | None,
    size: Literal["1.4b", "2.8b"],
    tokenizer_json: str,
    eos_id: int,
    num_steps: int,
    sft_steps: int,
    batch_size: int,
    microbatches: int,
    mesh: MeshShape,
    seed: int,
) -> Experiment:
    """Stages `sft` and `comparisons`."""
    tokenizer = partial(gguf_tokenizer, path=gguf) if gguf else partial(hf_tokenizer, path=tokenizer_json)
    posts = partial(tldr_demonstrations, data_root=data_root, tokenizer=tokenizer)
    comparisons = partial(tldr_comparisons, data_root=data_root, tokenizer=tokenizer)
    asked, compared = partial(posts, split="valid"), partial(comparisons, split="valid")
    shape = {"1.4b": pythia_1_4b, "2.8b": pythia_2_8b}[size]
    stage = partial(Stage, batch_size=batch_size, evaluate_every=200, checkpoint_every=200)
    summaries = partial(
        generation,
        records=asked,
        max_tokens=RESPONSE_LENGTH,
        num_prompts=8,
        batch_size=8,
        name="samples to read",
    )
    return Experiment(
        name=name,
        policy=partial(
            transformer,
            sizes=partial(gguf_sizes, path=gguf) if gguf else shape,
            compute_dtype="bfloat16",
            remat="block",
            eos_id=eos_id,
        ),
        tokenizer=tokenizer,
        weights=partial(gguf_weights, path=gguf) if gguf else None,
        stages=(
            stage(
                name="sft",
                algorithm=partial(
                    sft,
                    optimizer=partial(
                        adamw,
                        schedule=partial(warmup_cosine, peak=3e-6, warmup_steps=50),
                    ),
                    microbatches=microbatches,
                ),
                train=posts,
                evaluation=asked,
                evaluators=(summaries,),
                num_steps=sft_steps,
            ),
            stage(
                name="comparisons",
                algorithm=algorithm,
                train=comparisons,
                evaluation=compared,
                evaluators=(
                    summaries,
                    partial(reward_accuracy, records=compared, batch_size=batch_size, num_prompts=1024),
                    partial(sampled_kl, records=asked, max_tokens=RESPONSE_LENGTH, num_prompts=512),
                ),
                evaluators_every=200,
                num_steps=num_steps,
            ),
        ),
        mesh=mesh,
        seed=seed,
        arxiv=("2406.01462", "2009.01325"),
    )
