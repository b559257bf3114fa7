"""Adapters above the model of a folder, trained in seconds, for tests of commands.

Run       jaxpref train tests/training/tiny_adapters.py model=DIR
"""

from functools import partial

from jaxpref import losses
from jaxpref.algorithms import offline
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data import hf_tokenizer
from jaxpref.data.text.synthetic import arithmetic_pairs
from jaxpref.experiment import Experiment, MeshShape, Stage
from jaxpref.models.hub import hf_end_ids, hf_sizes, hf_weights
from jaxpref.models.lora import LoRA
from jaxpref.policies.adapted import adapted
from jaxpref.policies.transformer import transformer


def experiment(*, model: str, outputs: int = 0, train: str | None = None, rank: int = 2) -> Experiment:
    """`rank=0`: no adapters, only what `train` names."""
    plain = partial(
        transformer, sizes=partial(hf_sizes, path=model), outputs=outputs, eos_id=hf_end_ids(model)
    )
    loss = losses.bradley_terry if outputs else losses.dpo
    return Experiment(
        name="tiny_adapters",
        policy=partial(
            adapted,
            policy=plain,
            base=partial(hf_weights, path=model),
            lora=LoRA(rank=rank, targets=("query", "mlp.down")) if rank else None,
            train=train,
        ),
        tokenizer=partial(hf_tokenizer, path=model),
        stages=(
            Stage(
                name="tuned",
                algorithm=partial(
                    offline,
                    loss=loss,
                    optimizer=partial(adamw, schedule=partial(constant, value=1e-2)),
                    reference=None if outputs else "initial",
                ),
                train=partial(arithmetic_pairs, num_examples=8),
                num_steps=2,
                batch_size=8,
            ),
        ),
        mesh=MeshShape(1, 1, 1),
    )
