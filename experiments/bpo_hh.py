"""BPO on Anthropic HH helpfulness with a model of Gemma-2B's size: one phase more than offline learning.

A reward model of the house labels two samples of the behaviour policy, which is also the anchor of the loss
and is renewed `phases` times. phases=1 is DPO on samples of the fine-tuned model, the offline base; with
phases=156 the samples are always fresh; anchor=initial makes that online DPO.

Paper     Online BPO (2024), arXiv:2406.12168; settings of its released code (xu1998hz/BPO,
          commit 11b040b).
Run       tpu_scripts/run.sh -- jaxpref train experiments/bpo_hh.py:reward_model gguf=RM.gguf workdir=RM_RUN
          tpu_scripts/run.sh -- jaxpref train experiments/bpo_hh.py gguf=/path/model.gguf judge_run=RM_RUN
            judge_gguf=RM.gguf mesh.fsdp=16
          The two read the same tokens: use models of one tokenizer, of the Llama architecture (gguf= brings
          weights, sizes and tokenizer). Without gguf= a model has Gemma-2B's shape and RANDOM weights, with
          tokenizer_json= for the ids; without judge_run= the judge is RANDOM, and says so: dry runs of memory
          and speed, whose results mean nothing.
Change    phases=4 anchor=initial num_steps=312 stages.bpo.algorithm.loss.beta=0.2
          members=5 lora_rank=256: the ensemble of adapters of the released code
Ablation  jaxpref sweep experiments/bpo_hh.py:sweep_phases gguf=... judge_run=RM_RUN judge_gguf=RM.gguf
          jaxpref sweep experiments/bpo_hh.py:sweep_losses gguf=... judge_run=RM_RUN judge_gguf=RM.gguf
          (both end with the win rates of all policies under that reward model, and their KL to the start)
Cost      not measured: no pod has run it yet.
Expect    not yet reproduced. The paper's abstract: one additional phase takes the win rate against the human
          reference from 82.2 to 89.1 % (72.0 to 80.2 % on TL;DR).

From the released code: beta 0.1 in all of its losses (on summed log-probs in DPO and SLiC, the hinge; on
averages per token in IPO, a target of 5 nats a token), learning rate 5e-5 falling linearly to 0 with no
warm-up, AdamW, gradients clipped at 1, two samples, 64 tokens of a prompt and 128 of a response, the label
the higher reward; one pass over 10,000 prompts in batches of 64, so 156 steps. (TL;DR and the harmless half
of HH have batches of 16 there, so 625 steps. The batch of 64 is read off comments of its run script and the
count in the name of a checkpoint, not off a log.)
Differs from it: by default every weight is trained, and a rate of 5e-5 was meant for adapters: for all
weights a lower one is usual. `members=5 lora_rank=256` trains what it trains, an ensemble of low-rank
adapters, each by its own loss on the same pairs, which draws from and is anchored at its average
(`policies.ensemble`: the mean of their products, where its PEFT call averages the factors). Its members come
from SFT runs of their own; here from one SFT stage, in which they differ by their first draws and see the
same batches. At the start of a phase a member has a margin over the average unless all are equal. The judge
is trained here, where it takes OpenAssistant/reward-model-deberta-v3-large-v2. Equal rewards make no pair,
where its second response wins.
Not verified, so knobs here: the numbers of phases that the paper compares beyond 1, 2 and always fresh,
fine-tuning before it, everything about the reward model, the scale of adapters (alpha is twice the rank
here), and their rate in SFT (here ten times that of all weights).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxpref import losses
from jaxpref.algorithms import offline, online, sft
from jaxpref.algorithms.copies import copied
from jaxpref.algorithms.optimizers import adamw, warmup_cosine, warmup_linear
from jaxpref.data import gguf_tokenizer, hf_tokenizer
from jaxpref.data.prepare import chosen_only, hh_pairs
from jaxpref.evals import generation, reward_accuracy, sampled_kl
from jaxpref.experiment import Experiment, MeshShape, Stage, Tournament
from jaxpref.judges import reward_judge
from jaxpref.models.gguf import gguf_sizes, gguf_weights
from jaxpref.models.lora import LoRA
from jaxpref.models.sizes import gemma_2b
from jaxpref.policies.adapted import adapted
from jaxpref.policies.base import Policy
from jaxpref.policies.ensemble import ensemble
from jaxpref.policies.transformer import transformer
from jaxpref.selection import two_samples
from jaxpref.training.models import random_model, trained_model
from jaxpref.types import Params

PROMPT_LENGTH, MAX_TOKENS = 64, 128


def experiment(
    *,
    gguf: str | None = None,
    tokenizer_json: str = "tokenizer.json",
    eos_id: int = 1,
    data_root: str | None = None,
    judge_run: str | None = None,
    judge_gguf: str | None = None,
    loss: Callable[..., Any] = partial(losses.dpo, beta=0.1),
    phases: int = 2,
    anchor: str = "behaviour",
    num_steps: int = 156,
    batch_size: int = 64,
    learning_rate: float = 5e-5,
    sft_steps: int = 1_400,
    sft_peak: float | None = None,
    members: int = 1,
    lora_rank: int = 0,
    microbatches: int = 1,
    fsdp: int = -1,
    tensor: int = 1,
    seed: int = 0,
) -> Experiment:
    """`phases` divides `num_steps`. `eos_id` must be that of the tokenizer (1 is Gemma's). `lora_rank`: 0
    trains all weights; else `members` adapters of that rank, whose average is the policy. `sft_peak`: if None
    1e-5, for adapters 1e-4."""
    if phases < 1 or num_steps % phases:
        raise ValueError(f"phases: expected a divisor of num_steps={num_steps}, got {phases}")
    if members > 1 and not lora_rank:
        raise ValueError(f"members={members} are adapters: give lora_rank=, such as the released 256")
    if sft_peak is None:
        sft_peak = 1e-4 if lora_rank else 1e-5
    tokenizer, pairs = _data(gguf, tokenizer_json, data_root)
    held_out = partial(pairs, split="test")
    judged = {"gguf": judge_gguf, "eos_id": eos_id}
    stage = partial(
        Stage,
        prompt_buckets=(PROMPT_LENGTH,),
        response_buckets=(MAX_TOKENS,),
        checkpoint_every=156,
    )
    answers = partial(generation, records=held_out, max_tokens=MAX_TOKENS, num_prompts=16, batch_size=16)
    moved = partial(sampled_kl, records=held_out, max_tokens=MAX_TOKENS, num_prompts=512, name="distance")
    return Experiment(
        name="bpo_hh",
        policy=_adapters(gguf, eos_id, lora_rank, members) if lora_rank else _policy(gguf, eos_id),
        tokenizer=tokenizer,
        weights=partial(gguf_weights, path=gguf) if gguf and not lora_rank else None,
        stages=(
            stage(
                name="sft",
                algorithm=partial(
                    sft,
                    optimizer=partial(
                        adamw,
                        schedule=partial(warmup_cosine, peak=sft_peak, warmup_steps=100),
                    ),
                    microbatches=microbatches,
                ),
                train=partial(chosen_only, records=partial(pairs, split="train")),
                evaluation=partial(chosen_only, records=held_out),
                evaluators=(answers,),
                num_steps=sft_steps,
                batch_size=64,
            ),
            stage(
                name="bpo",
                algorithm=partial(
                    online,
                    loss=loss,
                    sample_from=({"behaviour": 1.0},) * 2,
                    policies={"behaviour": partial(copied, every=num_steps // phases)},
                    reference=anchor,
                    judge=partial(helpfulness_judge, **judged),
                    models={"judge": partial(judge_model, run=judge_run, **judged)},
                    select=two_samples,
                    max_tokens=MAX_TOKENS,
                    optimizer=partial(
                        adamw,
                        schedule=partial(warmup_linear, peak=learning_rate, warmup_steps=0),
                    ),
                    microbatches=microbatches,
                ),
                train=partial(pairs, split="train"),
                evaluators=(answers, moved),
                evaluators_every=78,
                num_steps=num_steps,
                batch_size=batch_size,
            ),
        ),
        mesh=MeshShape(data=1, fsdp=fsdp, tensor=tensor),
        seed=seed,
        arxiv=("2406.12168", "2204.05862"),
    )


def reward_model(
    *,
    gguf: str | None = None,
    tokenizer_json: str = "tokenizer.json",
    eos_id: int = 1,
    data_root: str | None = None,
    num_steps: int = 1_400,
    batch_size: int = 64,
    microbatches: int = 1,
    fsdp: int = -1,
    tensor: int = 1,
    seed: int = 0,
) -> Experiment:
    """The judge: Bradley-Terry on the same pairs, arXiv:2203.02155."""
    tokenizer, pairs = _data(gguf, tokenizer_json, data_root)
    held_out = partial(pairs, split="test")
    return Experiment(
        name="bpo_hh_reward_model",
        policy=partial(_policy(gguf, eos_id), outputs=1),
        tokenizer=tokenizer,
        weights=partial(gguf_weights, path=gguf) if gguf else None,
        stages=(
            Stage(
                name="reward",
                algorithm=partial(
                    offline,
                    loss=losses.bradley_terry,
                    optimizer=partial(
                        adamw,
                        schedule=partial(warmup_cosine, peak=1e-5, warmup_steps=100),
                    ),
                    reference=None,
                    microbatches=microbatches,
                ),
                train=partial(pairs, split="train"),
                evaluation=held_out,
                evaluators=(
                    partial(reward_accuracy, records=held_out, batch_size=batch_size, num_prompts=1024),
                ),
                num_steps=num_steps,
                batch_size=batch_size,
                prompt_buckets=(PROMPT_LENGTH,),
                response_buckets=(MAX_TOKENS,),
                evaluate_every=200,
                checkpoint_every=200,
            ),
        ),
        mesh=MeshShape(data=1, fsdp=fsdp, tensor=tensor),
        seed=seed,
        arxiv=("2203.02155", "2204.05862"),
    )


def sweep_phases(
    *,
    gguf: str | None = None,
    data_root: str | None = None,
    judge_run: str | None = None,
    judge_gguf: str | None = None,
) -> list[Experiment]:
    """The offline base, one extra phase, several, always fresh samples."""
    return [
        experiment(gguf=gguf, data_root=data_root, judge_run=judge_run, judge_gguf=judge_gguf, phases=phases)
        for phases in (1, 2, 4, 156)
    ]


def sweep_losses(
    *,
    gguf: str | None = None,
    data_root: str | None = None,
    judge_run: str | None = None,
    judge_gguf: str | None = None,
) -> list[Experiment]:
    """The paper's three losses, each with the beta of its released code."""
    return [
        experiment(gguf=gguf, data_root=data_root, judge_run=judge_run, judge_gguf=judge_gguf, loss=loss)
        for loss in (
            partial(losses.dpo, beta=0.1),
            partial(losses.ipo_mean, tau=0.1),
            partial(losses.rso_hinge, beta=0.1),
        )
    ]


def tournament(
    *,
    gguf: str | None = None,
    tokenizer_json: str = "tokenizer.json",
    eos_id: int = 1,
    data_root: str | None = None,
    judge_run: str | None = None,
    judge_gguf: str | None = None,
) -> Tournament:
    """Greedy answers to 1,000 held-out prompts, under the reward model that labelled the training pairs."""
    _, pairs = _data(gguf, tokenizer_json, data_root)
    judged = {"gguf": judge_gguf, "eos_id": eos_id}
    return Tournament(
        records=partial(pairs, split="test"),
        judge=partial(helpfulness_judge, **judged),
        judge_params=partial(judge_params, run=judge_run, **judged),
        max_tokens=MAX_TOKENS,
        temperature=0.0,
        num_prompts=1000,
    )


def helpfulness_judge(*, gguf: str | None = None, eos_id: int = 1):
    return reward_judge(_reward_policy(gguf=gguf, eos_id=eos_id))


def judge_model(*, run: str | None, gguf: str | None = None, eos_id: int = 1):
    """The judge of a finished run of `reward_model`, or without one a random judge."""
    policy = partial(_reward_policy, gguf=gguf, eos_id=eos_id)
    if run is None:
        return random_model(policy=policy)
    return trained_model(policy=policy, workdir=run, stage="reward")


def judge_params(*, run: str | None, gguf: str | None = None, eos_id: int = 1):
    return judge_model(run=run, gguf=gguf, eos_id=eos_id).params


def _reward_policy(*, gguf: str | None, eos_id: int):
    return _policy(gguf, eos_id)(outputs=1)


def _policy(gguf: str | None, eos_id: int) -> partial:
    return partial(
        transformer,
        sizes=partial(gguf_sizes, path=gguf) if gguf else gemma_2b,
        compute_dtype="bfloat16",
        remat="block",
        eos_id=eos_id,
    )


def _adapters(gguf: str | None, eos_id: int, rank: int, members: int) -> partial:
    """Adapters above a bfloat16 base that exists once; several act as their average."""
    policy = partial(_policy(gguf, eos_id), param_dtype="bfloat16")
    base = partial(gguf_weights, path=gguf) if gguf else partial(random_base, policy=policy)
    one = partial(adapted, policy=policy, base=base, lora=LoRA(rank=rank, alpha=2.0 * rank))
    return partial(ensemble, policy=one, members=members)


def random_base(*, policy: Callable[..., Policy]) -> Params:
    return random_model(policy=policy).params


def _data(gguf: str | None, tokenizer_json: str, data_root: str | None) -> tuple[partial, partial]:
    tokenizer = partial(gguf_tokenizer, path=gguf) if gguf else partial(hf_tokenizer, path=tokenizer_json)
    pairs = partial(
        hh_pairs,
        data_root=data_root,
        tokenizer=tokenizer,
        prompt_length=PROMPT_LENGTH,
        response_length=MAX_TOKENS,
    )
    return tokenizer, pairs
