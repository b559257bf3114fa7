"""Nash learning from human feedback on TL;DR summaries, at full size.

Supervised fine-tuning on people's summaries, then 10,000 steps of Nash-MD-PG against a trained preference
model (experiments/pm_tldr.py). The paper's choice: tau 0.008, the weight of the reference in the opponent's
mixture beta 0.125. Its rivals are the same file: beta 0 is self-play, 1 the best response to the fine-tuned
model.

Paper     Munos et al. (2023), arXiv:2312.00886, Sec. 8; Calandriello et al. (2024), arXiv:2403.08635, its
          sister: batch size 32 and learning rate 3e-5 are that paper's for Nash-MD-PG with this tau and beta
          (by a secondary source), since those of the first are not verified.
Run       tpu_scripts/run.sh -- jaxpref train experiments/pm_tldr.py gguf=PM.gguf data_root=DIR
            workdir=PM_RUN
          tpu_scripts/run.sh -- jaxpref train experiments/nash_md_tldr.py gguf=/path/model.gguf data_root=DIR
            judge_run=PM_RUN judge_gguf=PM.gguf mesh.fsdp=16
          DIR holds the four files that experiments/_tldr.py writes. Policy and judge read the same tokens:
          use models of one tokenizer. Without gguf= the policy has the shape of Qwen2.5-0.5B and RANDOM
          weights, with tokenizer_json= for the ids; without judge_run= the judge is RANDOM, and says so: dry
          runs of memory and speed, whose results mean nothing.
Change    beta=0.25 tau=0.02 stages.nash.num_steps=3000 max_tokens=80
Ablation  jaxpref sweep experiments/nash_md_tldr.py:sweep_beta gguf=... data_root=DIR judge_run=PM_RUN
          (ends with the win rates of all policies under that preference model)
Cost      not measured: no pod has run it yet. Both stages ran with tiny models in place of these.
Expect    not yet reproduced. The paper's Table 1 (judge PaLM 2-L, 2,000 comparisons a cell, half-width .023;
          two notes on it agree): win rate against the fine-tuned model .983, .982, .985, .943 for beta 0,
          .125, .5, 1; beta .125 beats the others with .592, .631, .837, and RLHF (.990) with .598.

Differs from the paper: decoders in place of T5X-L (770M, policy) and T5X-XL (3B, judge); AdamW at a constant
rate in place of Adafactor with decay .8 (the sister paper's); the judge of the table is the preference model
itself. Not verified in the paper, so knobs here: longest summary, batch size, learning rate, fine-tuning.
"""

from functools import partial

from _tldr import PROMPT_LENGTH, RESPONSE_LENGTH, tldr_demonstrations
from pm_tldr import STAGE, preference_model

from jaxpref import losses
from jaxpref.algorithms import online, sft
from jaxpref.algorithms.mixtures import nash_md
from jaxpref.algorithms.optimizers import adamw, constant, warmup_cosine
from jaxpref.data import gguf_tokenizer, hf_tokenizer
from jaxpref.evals import generation, sampled_kl
from jaxpref.experiment import Experiment, MeshShape, Stage, Tournament
from jaxpref.judges import pair_judge
from jaxpref.models.gguf import gguf_sizes, gguf_weights
from jaxpref.models.sizes import qwen2_5_0_5b
from jaxpref.policies.transformer import transformer
from jaxpref.selection import versus
from jaxpref.training.models import random_model, trained_model


def experiment(
    *,
    gguf: str | None = None,
    tokenizer_json: str = "tokenizer.json",
    data_root: str = "data/tldr",
    judge_run: str | None = None,
    judge_gguf: str | None = None,
    eos_id: int = 0,
    separator_id: int = 1,
    tau: float = 0.008,
    beta: float = 0.125,
    learning_rate: float = 3e-5,
    num_steps: int = 10_000,
    batch_size: int = 32,
    max_tokens: int = RESPONSE_LENGTH,
    sft_steps: int = 3_600,
    sft_peak: float = 1e-5,
    microbatches: int = 1,
    fsdp: int = -1,
    tensor: int = 1,
    seed: int = 0,
) -> Experiment:
    """`eos_id` and `separator_id` must be those of the tokenizer, and of the judge's run."""
    tokenizer = partial(gguf_tokenizer, path=gguf) if gguf else partial(hf_tokenizer, path=tokenizer_json)
    posts = partial(tldr_demonstrations, data_root=data_root, tokenizer=tokenizer)
    held_out = partial(posts, split="valid")
    compared = {"gguf": judge_gguf, "eos_id": eos_id, "separator_id": separator_id}
    stage = partial(
        Stage,
        train=partial(posts, split="train"),
        prompt_buckets=(PROMPT_LENGTH // 2, PROMPT_LENGTH),
        evaluate_every=1000,
        checkpoint_every=500,
    )
    answers = partial(generation, records=held_out, max_tokens=max_tokens, num_prompts=16, batch_size=16)
    return Experiment(
        name="nash_md_tldr",
        policy=partial(
            transformer,
            sizes=partial(gguf_sizes, path=gguf) if gguf else qwen2_5_0_5b,
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
                        schedule=partial(warmup_cosine, peak=sft_peak, warmup_steps=100),
                    ),
                    microbatches=microbatches,
                ),
                num_steps=sft_steps,
                batch_size=batch_size,
                response_buckets=(RESPONSE_LENGTH,),
                evaluation=held_out,
                evaluators=(answers,),
            ),
            stage(
                name="nash",
                algorithm=partial(
                    online,
                    loss=partial(losses.nash_md, tau=tau),
                    sample_from=nash_md(beta),
                    judge=partial(summaries_judge, **compared),
                    models={"judge": partial(judge_model, run=judge_run, **compared)},
                    select=versus,
                    max_tokens=max_tokens,
                    optimizer=partial(adamw, schedule=partial(constant, value=learning_rate)),
                    microbatches=microbatches,
                ),
                num_steps=num_steps,
                batch_size=batch_size,
                evaluators=(
                    answers,
                    partial(
                        sampled_kl,
                        records=held_out,
                        max_tokens=max_tokens,
                        num_prompts=512,
                        batch_size=batch_size,
                        name="kl",
                    ),
                ),
                evaluators_every=2000,
            ),
        ),
        mesh=MeshShape(data=1, fsdp=fsdp, tensor=tensor),
        seed=seed,
        arxiv=("2312.00886", "2403.08635"),
    )


def tournament(
    *,
    gguf: str | None = None,
    tokenizer_json: str = "tokenizer.json",
    data_root: str = "data/tldr",
    judge_run: str | None = None,
    judge_gguf: str | None = None,
    eos_id: int = 0,
    separator_id: int = 1,
    max_tokens: int = RESPONSE_LENGTH,
) -> Tournament:
    """2,000 comparisons a cell, as the paper's, under the preference model."""
    tokenizer = partial(gguf_tokenizer, path=gguf) if gguf else partial(hf_tokenizer, path=tokenizer_json)
    compared = {"gguf": judge_gguf, "eos_id": eos_id, "separator_id": separator_id}
    return Tournament(
        records=partial(tldr_demonstrations, data_root=data_root, tokenizer=tokenizer, split="valid"),
        judge=partial(summaries_judge, **compared),
        judge_params=partial(judge_params, run=judge_run, **compared),
        max_tokens=max_tokens,
        num_prompts=2000,
    )


def sweep_beta(
    *,
    gguf: str | None = None,
    tokenizer_json: str = "tokenizer.json",
    data_root: str = "data/tldr",
    judge_run: str | None = None,
    judge_gguf: str | None = None,
    eos_id: int = 0,
    separator_id: int = 1,
    tau: float = 0.008,
) -> list[Experiment]:
    """The paper's table has these and every eighth between."""
    return [
        experiment(
            gguf=gguf,
            tokenizer_json=tokenizer_json,
            data_root=data_root,
            judge_run=judge_run,
            judge_gguf=judge_gguf,
            eos_id=eos_id,
            separator_id=separator_id,
            tau=tau,
            beta=beta,
        )
        for beta in (0.0, 0.125, 0.5, 1.0)
    ]


def summaries_judge(*, gguf: str | None = None, eos_id: int = 0, separator_id: int = 1):
    return pair_judge(preference_model(gguf=gguf, eos_id=eos_id, separator_id=separator_id))


def judge_model(*, run: str | None, gguf: str | None = None, eos_id: int = 0, separator_id: int = 1):
    """The judge of a finished run of pm_tldr.py, or without one a random judge."""
    policy = partial(preference_model, gguf=gguf, eos_id=eos_id, separator_id=separator_id)
    return (
        random_model(policy=policy) if run is None else trained_model(policy=policy, workdir=run, stage=STAGE)
    )


def judge_params(*, run: str | None, gguf: str | None = None, eos_id: int = 0, separator_id: int = 1):
    return judge_model(run=run, gguf=gguf, eos_id=eos_id, separator_id=separator_id).params
