"""Models that answer, ready on the devices: a folder of the hub, or what an experiment trained."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxpref import config
from jaxpref.assignments import assignments_of, coerce
from jaxpref.commands.opening import Options, aside, load, say_changes
from jaxpref.data import Tokenizer, conversation_ids, hf_template, hf_tokenizer, reply_end
from jaxpref.data.text.dialogue import Message, Template
from jaxpref.data.text.templates.sources import has_template
from jaxpref.data.text.tokenizers.incremental import IncrementalText
from jaxpref.experiment import Experiment, MeshShape
from jaxpref.models.hub import hf_end_ids, hf_outputs, hf_sizes, hf_weights
from jaxpref.paths import as_path
from jaxpref.policies.base import Policy
from jaxpref.policies.transformer import transformer
from jaxpref.training import distributed, sharding
from jaxpref.training.params import trained_params
from jaxpref.training.run import open_run
from jaxpref.types import Params, PRNGKey, Prompts

__all__ = [
    "Speaker",
    "check_no_checkpoint",
    "check_no_run",
    "model_of_folder",
    "open_speaker",
    "sources_of",
]


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A model that answers.

    Attributes:
      name: What the user called it.
      params: With the policy's constants, on the mesh.
      source: Makes the template of its conversations; None: none is known.
    """

    name: str
    policy: Policy
    params: Params
    tokenizer: Tokenizer
    mesh: jax.sharding.Mesh
    source: Callable[[], Template] | None

    @functools.cached_property
    def template(self) -> Template:
        """Raises ValueError where there is none."""
        if self.source is None:
            raise ValueError(
                f"{self.name} has no chat template; give one with --template (a folder of the hub, a .jinja "
                "or a GGUF file), or use `jaxpref sample` without --chat, which goes on from plain text"
            )
        return self.source()

    def conversation(self, messages: Sequence[Message]) -> list[int]:
        """The tokens that the next reply is drawn to.

        Raises:
          ValueError: there is no template, or it does not write such messages.
        """
        return conversation_ids(self.tokenizer, self.template, messages)

    def prompts(self, rows: Sequence[Sequence[int]], max_tokens: int) -> Prompts:
        """Rows of ids on the devices, filled up to a width that few other prompts compile for again, and to a
        number that divides over the devices."""
        several = sharding.batch_shards(self.mesh)
        padded = [*rows, *[rows[0]] * (-len(rows) % several)]
        longest = max(map(len, padded))
        width = 16
        while width < longest:
            width *= 4
        most = None if self.policy.model is None else self.policy.model.sizes.longest
        if most is not None:
            width = max(longest, min(width, most - max_tokens))
        tokens = np.full((len(padded), width), self.tokenizer.pad_id, np.int32)
        mask = np.zeros(tokens.shape, bool)
        for i, row in enumerate(padded):
            tokens[i, : len(row)], mask[i, : len(row)] = row, True

        def read(which: np.ndarray) -> Any:
            return jax.tree.map(lambda x: x[which], Prompts(tokens, mask))  # type: ignore[arg-type]

        return sharding.put_batch(read, len(padded), self.mesh)

    def sample(self, prompts: Prompts, key: PRNGKey, **settings: Any) -> Any:
        """`Policy.sample` as numpy on every process."""
        out = sharding.OnMesh(self.policy.sample, self.mesh)(self.params, prompts, key, **settings)
        return sharding.fetch((out.completions.response_tokens, out.completions.response_mask, out.ended))

    def stream(
        self, ids: Sequence[int], key: PRNGKey, *, goes_on: bool, max_tokens: int, **settings: Any
    ) -> Iterator[tuple[str, bool]]:
        """The text of one reply, in parts, as it is drawn, each with whether the reply has ended there.

        `goes_on`: it goes on from the text of `ids`, and is no text of its own.
        """
        if self.policy.stream is None:
            raise ValueError(f"{self.name}: its policy does not give a reply in parts; use `jaxpref sample`")
        prompts = self.prompts([ids], max_tokens)
        arriving = self.policy.stream(self.params, prompts, key, max_tokens=max_tokens, **settings)
        text, ended = IncrementalText(self.tokenizer, ids if goes_on else ()), False
        while not ended:  # rows that only fill up may go on
            with jax.set_mesh(self.mesh):  # not while others run
                part = next(arriving, None)
            if part is None:
                break
            drawn, ended = part.tokens[0][part.mask[0]].tolist(), bool(part.ended[0])
            yield text.push(drawn[:-1] if ended else drawn), ended
        yield text.end(), ended


def open_speaker(options: Options) -> Speaker:
    """The model of a folder, or of an experiment and its run.

    Raises:
      ValueError: there is none, it reads no text or writes none, or the options do not fit it.
    """
    template = None if options.template is None else partial(hf_template, path=options.template)
    if not as_path(options.file).is_dir():
        return _of_run(options, template)
    check_no_run(options.file)
    return _of_folder(options, template)


def check_no_run(path: str) -> None:
    """Raises ValueError for the folder of a run where that of a model is read."""
    if (pathlib.Path(path) / "experiment.json").is_file():
        raise ValueError(f"{path} is the folder of a run; give its experiment file and workdir={path}")


def check_no_checkpoint(options: Options) -> None:
    """Raises ValueError where what is no run is read as one of its checkpoints."""
    for name in ("stage", "step", "other_base"):
        if getattr(options, name, None) not in (None, False):
            raise ValueError(
                f"--{name.replace('_', '-')} is for the checkpoints of a run, and {options.file} is none: a "
                "file or folder of one model"
            )


def sources_of(experiment: Experiment) -> list[str]:
    """Folders of the hub that an experiment reads: of its weights first, of its policy, of its tokenizer."""
    parts = (experiment.weights, experiment.policy, experiment.tokenizer)
    paths = [path for part in parts if part is not None for path in config.arguments(part, "path")]
    found = [
        str(path) for path in paths if isinstance(path, str) and (as_path(path) / "config.json").is_file()
    ]
    return list(dict.fromkeys(found))


def _of_run(options: Options, template: Callable[[], Template] | None) -> Speaker:
    experiment, workdir, _ = load(options)
    run = open_run(experiment, workdir, other_base=options.other_base, log=aside)
    say_changes(run)
    params = trained_params(run, stage=options.stage, step=options.step)
    if run.tokenizer is None:
        raise ValueError(f"{experiment.name}: this policy reads no text, so it cannot answer a prompt")
    if options.dtype is not None:
        raise ValueError("--dtype is for folders; of an experiment, set policy.compute_dtype=")
    if template is None:
        known: list[Any] = [t for t in config.arguments(experiment, "template")[::-1] if callable(t)]
        known += [partial(hf_template, path=source) for source in sources_of(experiment)]
        template = next(iter(known), None)
    return Speaker(experiment.name, run.policy, run.whole(params), run.tokenizer, run.mesh, template)


def _of_folder(options: Options, template: Callable[[], Template] | None) -> Speaker:
    path = options.file
    check_no_checkpoint(options)
    _mesh_shape(options)  # of what is said here first, mistakes are said first
    if outputs := hf_outputs(path):
        raise ValueError(
            f"{path} is a reward model ({outputs} score{'s' * (outputs > 1)}) and writes no text; give the "
            "folder of a language model"
        )
    tokenizer = hf_tokenizer(path)
    source = template or (partial(hf_template, path=path) if has_template(path) else None)
    ends = () if source is None else (reply_end(tokenizer, source()),)
    policy, params, mesh = model_of_folder(options, pad_id=tokenizer.pad_id, ends=ends)
    if tokenizer.vocab_size > policy.vocab_size:
        raise ValueError(
            f"{path}: its tokenizer has {tokenizer.vocab_size} ids and the model {policy.vocab_size}; they "
            "are of different models"
        )
    return Speaker(path, policy, params, tokenizer, mesh, source or partial(hf_template, path=path))


def model_of_folder(
    options: Options, *, pad_id: int = 0, ends: Sequence[int] = ()
) -> tuple[Policy, Params, jax.sharding.Mesh]:
    """The model of a folder, its weights on the devices, and these. `ends`: ids that end a response, too.

    `--dtype` is that of weights and computation; by default float32 on a CPU, which computes nothing else
    well, and that of the file elsewhere.
    """
    path = options.file
    mesh = sharding.make_mesh(_mesh_shape(options))
    dtype = options.dtype or ("float32" if jax.default_backend() == "cpu" else None)
    weights = hf_weights(path, dtype=dtype)
    computed = str(weights["embedding"].dtype)
    policy = transformer(
        sizes=hf_sizes(path),
        param_dtype=computed,
        compute_dtype=computed,
        outputs=hf_outputs(path),
        eos_id=hf_end_ids(path, *ends),
        pad_id=pad_id,
    )
    params = sharding.put_params(weights, sharding.param_shardings(weights, policy.axes(), mesh))
    count = sum(x.size for x in jax.tree.leaves(params))
    if distributed.first():
        aside(f"{path}: {count:,} parameters, {computed}, mesh {sharding.describe_mesh(mesh)}")
    return policy, params, mesh


def _mesh_shape(options: Options) -> MeshShape:
    """By default all devices share the model: one reply at a time leaves nothing else to split."""
    shape = {"data": 1, "fsdp": 1, "tensor": -1}
    for key, text in assignments_of(options.overrides).items():
        name = key.removeprefix("mesh.")
        if key == name or name not in shape:
            takes = ", ".join(f"mesh.{axis}=" for axis in shape)
            raise ValueError(
                f"{options.file} is a folder of one model, which has no {key}=; {takes} can be set"
            )
        shape[name] = coerce(text, int, 1, key)
    return MeshShape(**shape)
