"""DPO on Anthropic HH at full size, and how much beta matters.

The paper's settings: Pythia-2.8B, all HH helpful training pairs, one epoch of supervised fine-tuning on
chosen responses, one of DPO, batches of 64, RMSprop at 1e-6 after 150 warm-up steps, 256 prompt tokens.

Paper     Rafailov et al. (2023), arXiv:2305.18290, Sec. 6.2 and Appendix B.
Run       tpu_scripts/run.sh -- jaxpref train experiments/dpo_hh.py gguf=/path/model.gguf eos_id=2
          (after tpu_scripts/setup.sh --extras tpu,gguf)
          gguf= takes any Llama-architecture GGUF file (weights, sizes and tokenizer come from it). Without
          it the model has Pythia-2.8B's shape and RANDOM weights, with tokenizer_json= for the ids: a dry
          run of memory and speed, whose results mean nothing.
Plan      jaxpref plan experiments/dpo_hh.py --topology v5e:4x4 (model=llama3_1_8b for another size)
Change    beta=0.3 policy.remat=dots stages.dpo.num_steps=1000
Ablation  jaxpref sweep experiments/dpo_hh.py:sweep_beta gguf=/path/model.gguf
Cost      not measured: no pod has run it yet.
Expect    not yet reproduced.

Differs from the paper: helpful-base and helpful-rejection-sampled training pairs (the released loader also
takes helpful-online and harmless); the learning rate of the released code is 5e-7.
"""

from functools import partial

from _hh import sft_then_dpo

from jaxpref.algorithms.optimizers import rmsprop, warmup_constant
from jaxpref.data import gguf_tokenizer, hf_tokenizer
from jaxpref.data.prepare import hh_pairs
from jaxpref.experiment import Experiment, MeshShape
from jaxpref.models import sizes
from jaxpref.models.gguf import gguf_sizes, gguf_weights
from jaxpref.policies.transformer import transformer


def experiment(
    *,
    gguf: str | None = None,
    model: str = "pythia_2_8b",
    tokenizer_json: str = "tokenizer.json",
    eos_id: int = 0,
    data_root: str | None = None,
    prompt_length: int = 256,
    response_length: int = 256,
    beta: float = 0.1,
    sft_steps: int = 1_400,
    dpo_steps: int = 1_400,
    batch_size: int = 64,
    microbatches: int = 1,
    fsdp: int = -1,
    tensor: int = 1,
    seed: int = 0,
) -> Experiment:
    """`model`: sizes where no gguf= says them, a function of `jaxpref.models.sizes`. `eos_id` must be that of
    the tokenizer (0 is Pythia's)."""
    if model not in sizes.__all__:
        raise ValueError(f"model={model}: no such sizes; there are {', '.join(sizes.__all__[2:])}")
    tokenizer = partial(gguf_tokenizer, path=gguf) if gguf else partial(hf_tokenizer, path=tokenizer_json)
    pairs = partial(
        hh_pairs,
        data_root=data_root,
        tokenizer=tokenizer,
        prompt_length=prompt_length,
        response_length=response_length,
    )
    optimizer = partial(rmsprop, schedule=partial(warmup_constant, peak=1e-6, warmup_steps=150))
    return sft_then_dpo(
        name="dpo_hh",
        policy=partial(
            transformer,
            sizes=partial(gguf_sizes, path=gguf) if gguf else getattr(sizes, model),
            compute_dtype="bfloat16",
            remat="block",
            eos_id=eos_id,
        ),
        tokenizer=tokenizer,
        weights=partial(gguf_weights, path=gguf) if gguf else None,
        train=partial(pairs, split="train"),
        held_out=partial(pairs, split="test"),
        sft_optimizer=optimizer,
        dpo_optimizer=optimizer,
        sft_steps=sft_steps,
        dpo_steps=dpo_steps,
        batch_size=batch_size,
        microbatches=microbatches,
        beta=beta,
        evaluate_every=200,
        checkpoint_every=200,
        max_tokens=128,
        seed=seed,
        mesh=MeshShape(data=1, fsdp=fsdp, tensor=tensor),
        held_out_pairs=1024,
    )


def sweep_beta(*, gguf: str | None = None, data_root: str | None = None) -> list[Experiment]:
    """The paper's Figure 2 sweeps beta over these values (on IMDb sentiment; here on HH)."""
    return [experiment(gguf=gguf, data_root=data_root, beta=beta) for beta in (0.05, 0.1, 1.0, 5.0)]
