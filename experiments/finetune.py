"""Fine-tune a model of yours on a file of yours: DPO, KTO, SimPO, ORPO, IPO, lists, or any loss of the table.

`model` is a folder as model hubs have them (config.json, *.safetensors, tokenizer.json): `jaxpref check-model
DIR` says whether it is read right, `jaxpref convert` makes one of a GGUF file. `data` is JSON lines, a JSON
array or Parquet, as texts or as messages. What it holds is recognised (pairs, labelled responses, lists with
scores, conversations), and a method that cannot learn from it is refused. Messages are written in the model's
own chat template, or behind "Human:" and "Assistant:" where it has none. A tenth of the prompts is held out.
The model is frozen and adapters are trained (LoRA of rank 16 on all projections); `lora_rank=0` trains all
weights, and `quantize=nf4` (int4, int8) has the frozen ones in fewer bits. The report shows replies before
and after, and the trained model lies in `WORKDIR/model` at the end, for `transformers` or whatever reads such
folders; a reward model is used from its run, or written by `jaxpref export --adapter`.

Without arguments it runs on a small chat model and pairs that lie beside this file (`tiny_chat.py`).

Paper     the method's own (`jaxpref methods NAME`); adapters: Hu et al. (2021), arXiv:2106.09685; learning
          rates: `_rates.py` has the source of each.
Run       jaxpref train experiments/finetune.py
          jaxpref train experiments/finetune.py model=DIR data=pairs.jsonl
          jaxpref train experiments/finetune.py model=DIR data=labels.parquet method=kto
          jaxpref train experiments/finetune.py model=DIR data=lists.jsonl method=lipo_lambda
          jaxpref train experiments/finetune.py model=DIR data=pairs.jsonl method=bradley_terry workdir=RM
          jaxpref train experiments/finetune.py model=DIR data=pairs.jsonl method=online_dpo judge=RM
          jaxpref train experiments/finetune.py model=DIR data=pairs.jsonl adapter=PEFT_FOLDER (or RUN)
Change    beta=0.3 learning_rate=2e-5 lora_rank=64 steps=500 sft_steps=200 batch_size=32 microbatches=4
Ablation  jaxpref sweep experiments/finetune.py:sweep_methods
Try       jaxpref chat experiments/finetune.py
Cost      without arguments about 57 CPU seconds, most of it compilation; time goes with tokens and weights.
Expect    without arguments (22 steps, one seed): reward accuracy on 44 held-out pairs from 0.500 to
          0.932 [0.815, 0.977]; of 40 held-out questions, sampled, 0.375 [0.240, 0.532] are answered right
          before and 0.750 [0.550, 0.880] after.
"""

from functools import partial
from typing import Literal

from _adapter_start import Asked, start_of
from _finetune import (
    READERS,
    Stages,
    buckets,
    check_asked,
    checked_loss,
    example_for,
    judge_of,
    optimizer,
    outputs_of,
    passes,
    policy_of,
    reward_model,
    scored_policy,
)
from tiny_chat import FOLDER, right

from jaxpref.data import hf_template, hf_tokenizer
from jaxpref.data.prepare import recognised, split
from jaxpref.data.text.templates.sources import has_template
from jaxpref.evals import generation
from jaxpref.experiment import Experiment, Stage
from jaxpref.models.quantized import Format


def experiment(
    *,
    model: str | None = None,
    data: str | None = None,
    method: str = "dpo",
    beta: float | None = None,
    learning_rate: float | None = None,
    lora_rank: int | None = None,
    lora_alpha: float | None = None,
    lora_dropout: float | None = None,
    train: str | None = None,
    adapter: str | None = None,
    adapter_other_base: bool = False,
    quantize: Format | None = None,
    quantize_tile: int | None = None,
    epochs: float = 1.0,
    steps: int | None = None,
    sft_steps: int = 0,
    batch_size: int = 16,
    microbatches: int = 1,
    prompt_length: int = 512,
    response_length: int = 512,
    truncate_prompt: Literal["start", "end", "turns", "drop"] = "start",
    held_out: float = 0.1,
    max_tokens: int = 128,
    compute_dtype: str | None = None,
    remat: str = "block",
    judge: str | None = None,
    seed: int = 0,
) -> Experiment:
    """One stage of the method, behind one of supervised fine-tuning where `sft_steps` is given.

    `compute_dtype`: that of the file's weights if None. `steps`: `epochs` passes over the data if None.
    `train`: weights that are trained beside adapters, by the pattern of their names (`policies.adapted`).
    `lora_...`: those of `LoRA` (rank 16, alpha 32, no dropout) if None. `adapter`: a folder of PEFT, or the
    workdir of a run of this file, whose adapters this run starts from, and whose `lora_...` and `train` are
    its own then. Adapters of a run above another model are refused without `adapter_other_base=true`.
    `quantize`: the format of projections that are not trained; `quantize_tile` inputs (else 64 of 4-bit
    ones, all of int8) share a scale.
    """
    folder, path = str(FOLDER) if model is None else model, data or example_for(method)
    toy = model is None and data is None
    kind = recognised(path)
    records = partial(
        READERS[kind],
        path=path,
        tokenizer=partial(hf_tokenizer, path=folder),
        template=partial(hf_template, path=folder) if has_template(folder) else None,
        plain_prompt="turn" if has_template(folder) else "text",
        prompt_length=prompt_length,
        response_length=response_length,
        truncate_prompt=truncate_prompt,
    )
    train_records = partial(split, records=records, part="train", held_out=held_out)
    held_records = partial(split, records=records, part="held_out", held_out=held_out)
    num_steps = passes(path, epochs * (1 - held_out), batch_size) if steps is None else steps
    check_asked(method, sft_steps, judge)
    loss = checked_loss(method, kind, path, beta)
    asked = Asked(lora_rank, lora_alpha, lora_dropout, train)
    begun = start_of(adapter, asked, folder=folder, other_base=adapter_other_base, outputs=outputs_of(loss))
    lora, train = begun.lora, begun.train
    policy, weights = policy_of(folder, loss, lora, train, compute_dtype, remat, (quantize, quantize_tile))
    rate = partial(optimizer, learning_rate=learning_rate, adapters=lora is not None, toy=toy)
    weights = begun.weights(policy) or weights
    stages = Stages(
        parts=(train_records, held_records),
        kind=kind,
        stage=partial(
            Stage,
            batch_size=batch_size,
            evaluate_every=max(num_steps // 5, 1),
            checkpoint_every=max(num_steps // 2, 1),
            prompt_buckets=buckets(prompt_length),
            response_buckets=buckets(response_length),
        ),
        answers=partial(
            generation,
            records=held_records,
            max_tokens=max_tokens,
            num_prompts=40 if toy else 12,
            batch_size=min(batch_size, 16),
            checker=right if toy else None,
            temperature=1.0 if toy else 0.0,
            name="replies",
        ),
    )
    first = (
        (stages.sft(sft_steps, rate("sft", sft_steps), microbatches),)
        if sft_steps and method != "sft"
        else ()
    )
    if method == "sft":
        last = stages.sft(num_steps, rate("sft", num_steps), microbatches)
    elif method == "online_dpo" and judge is not None:
        scored = partial(scored_policy, model=folder, run=judge)
        judged = partial(judge_of, policy=scored), partial(reward_model, policy=scored, run=judge)
        last = stages.online(num_steps, loss, rate("dpo", num_steps), *judged, max_tokens, microbatches)
    else:
        last = stages.offline(num_steps, method, loss, rate(method, num_steps), microbatches)
    return Experiment(
        name=f"finetune_{method}",
        policy=policy,
        tokenizer=partial(hf_tokenizer, path=folder),
        weights=weights,
        stages=(*first, last),
        seed=seed,
        arxiv=(("2106.09685",) if lora else ()) + (("2305.14314",) if quantize else ()),
    )


def sweep_methods(*, model: str | None = None, data: str | None = None) -> list[Experiment]:
    """Four losses of pairs on the same data."""
    return [experiment(model=model, data=data, method=name) for name in ("dpo", "ipo", "simpo", "orpo")]
