"""The preference model that judges TL;DR summaries: one reader of both, in both orders.

A decoder reads the post, one summary, a separator and the other summary, and its head gives s(x, y, y').
P(y beats y') = sigmoid(s(x, y, y') - s(x, y', y)), so that no order can be preferred. It is fitted to the
human comparisons alone, from a pretrained or fine-tuned decoder if there is one.

Paper     Munos et al. (2023), arXiv:2312.00886, Sec. 8 (preference model); data Stiennon et al. (2020),
          arXiv:2009.01325.
Run       tpu_scripts/run.sh -- jaxpref train experiments/pm_tldr.py gguf=/path/model.gguf data_root=DIR
            mesh.fsdp=16 workdir=gs://bucket/pm_tldr
          DIR holds the four files that experiments/_tldr.py writes. Without gguf= the model has the shape of
          Pythia-2.8B and RANDOM weights, with tokenizer_json= for the ids.
Change    num_steps=3000 peak=3e-6 batch_size=64
Ablation  jaxpref sweep experiments/pm_tldr.py:sweep_learning_rate gguf=/path/model.gguf data_root=DIR
Cost      not measured: no pod has run it yet.
Expect    not yet reproduced. The paper has a test accuracy of about 0.78 for its T5X-XL (3B) preference model
          and 0.76 for a reward model of that size (two notes on the paper agree).

Differs from the paper: a decoder in place of T5X-XL, both orders in every example, and a head in place of the
logit of one fixed token. The paper's prompt is known (Sec. 3.3 of arXiv:2410.02197 quotes it): an
instruction to a rater, then the post, both summaries with a label each, and a cue for the preferred one.
Learning rate, batch size and number of steps of the paper are not verified; those here are ours: one epoch of
the 92,820 comparisons.
"""

from functools import partial

from _tldr import PROMPT_LENGTH, RESPONSE_LENGTH, tldr_comparisons

from jaxpref import losses
from jaxpref.algorithms import offline
from jaxpref.algorithms.optimizers import adamw, warmup_cosine
from jaxpref.data import gguf_tokenizer, hf_tokenizer
from jaxpref.evals import reward_accuracy
from jaxpref.experiment import Experiment, MeshShape, Stage
from jaxpref.models.gguf import gguf_sizes, gguf_weights
from jaxpref.models.sizes import pythia_2_8b
from jaxpref.policies.comparing import comparing
from jaxpref.policies.transformer import transformer

STAGE = "preferences"


def experiment(
    *,
    gguf: str | None = None,
    tokenizer_json: str = "tokenizer.json",
    data_root: str = "data/tldr",
    eos_id: int = 0,
    separator_id: int = 1,
    peak: float = 1e-5,
    num_steps: int = 2_900,
    batch_size: int = 32,
    microbatches: int = 1,
    fsdp: int = -1,
    tensor: int = 1,
    seed: int = 0,
) -> Experiment:
    """`eos_id` and `separator_id` must be those of the tokenizer: the latter an id no summary has."""
    tokenizer = partial(gguf_tokenizer, path=gguf) if gguf else partial(hf_tokenizer, path=tokenizer_json)
    pairs = partial(tldr_comparisons, data_root=data_root, tokenizer=tokenizer)
    held_out = partial(pairs, split="valid")
    return Experiment(
        name="pm_tldr",
        policy=partial(preference_model, gguf=gguf, eos_id=eos_id, separator_id=separator_id),
        tokenizer=tokenizer,
        weights=partial(gguf_weights, path=gguf) if gguf else None,
        stages=(
            Stage(
                name=STAGE,
                algorithm=partial(
                    offline,
                    loss=losses.pair_preference,
                    optimizer=partial(
                        adamw,
                        schedule=partial(warmup_cosine, peak=peak, warmup_steps=100, num_steps=num_steps),
                    ),
                    reference=None,
                    microbatches=microbatches,
                ),
                train=partial(pairs, split="train"),
                evaluation=held_out,
                evaluators=(
                    partial(reward_accuracy, records=held_out, batch_size=batch_size, num_prompts=2048),
                ),
                num_steps=num_steps,
                batch_size=batch_size,
                prompt_buckets=(PROMPT_LENGTH // 2, PROMPT_LENGTH),
                response_buckets=(RESPONSE_LENGTH,),
                evaluate_every=500,
                checkpoint_every=500,
            ),
        ),
        mesh=MeshShape(data=1, fsdp=fsdp, tensor=tensor),
        seed=seed,
        arxiv=("2312.00886", "2009.01325"),
    )


def preference_model(*, gguf: str | None = None, eos_id: int = 0, separator_id: int = 1):
    """The policy of this run, for those who load it as a judge."""
    return comparing(
        policy=partial(
            transformer,
            sizes=partial(gguf_sizes, path=gguf) if gguf else pythia_2_8b,
            compute_dtype="bfloat16",
            remat="block",
            outputs=1,
            eos_id=eos_id,
        ),
        separator_id=separator_id,
    )


def sweep_learning_rate(*, gguf: str | None = None, data_root: str = "data/tldr") -> list[Experiment]:
    return [experiment(gguf=gguf, data_root=data_root, peak=peak) for peak in (3e-6, 1e-5, 3e-5)]
