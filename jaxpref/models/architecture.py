"""The numbers that make the one decoder a Llama, a Qwen, a Gemma, a Pythia or a GPT-2."""

import dataclasses
from typing import Literal

__all__ = ["RopeScaling", "TransformerSizes"]


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Stretching of rotary frequencies to contexts longer than those of pre-training.

    `linear` divides every frequency by `factor` (arXiv:2306.15595 eq. 4). `llama3` divides only the slow ones
    and blends in between: wavelengths above `original_length / low_frequency_factor` are divided, those
    below `original_length / high_frequency_factor` are kept (arXiv:2407.21783 Sec. 3.4.2; constants as in
    the released configuration files). `longrope` divides each pair's frequency by a number of its own and
    multiplies cosines and sines by `attention_factor` (arXiv:2402.13753 Sec. 3; as in transformers): by
    `short_factors` in sequences of up to `original_length` tokens, by `long_factors` in longer ones. Which of
    them is fixed for a model, `long`, since one prompt serves responses of any length.
    """

    kind: Literal["linear", "llama3", "longrope"]
    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_length: int = 8192  # tokens
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    attention_factor: float = 1.0
    long: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "llama3", "longrope"):
            raise ValueError(
                f"RopeScaling.kind: expected 'linear', 'llama3' or 'longrope', got {self.kind!r}"
            )
        if (self.kind == "longrope") != bool(self.short_factors and self.long_factors):
            raise ValueError("RopeScaling: short_factors and long_factors are those of kind='longrope'")
        if not all(x > 0 for x in (*self.short_factors, *self.long_factors, self.attention_factor)):
            raise ValueError("RopeScaling: expected positive factors")
        if self.factor <= 0 or self.original_length <= 0:
            raise ValueError(f"RopeScaling: factor and original_length must be positive, got {self}")
        if not 0 < self.low_frequency_factor < self.high_frequency_factor:
            raise ValueError(
                "RopeScaling: expected 0 < low_frequency_factor < high_frequency_factor, got "
                f"{self.low_frequency_factor} and {self.high_frequency_factor}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerSizes:
    """A decoder-only transformer. Widths in units, lengths in tokens; raises ValueError when inconsistent."""

    vocab: int
    embed: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    tied: bool = False  # the unembedding is the embedding
    # Normalisation
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-5
    norm_offset: bool = False  # Gemma: multiply by 1 + weight
    pre_norms: bool = True  # normalise what each sublayer reads
    post_norms: bool = False  # normalise each sublayer's output (Gemma: too; OLMo 2: instead)
    # RMSNorm of queries and keys before the rotation: of each head (Qwen 3), or of all heads as one (OLMo 2)
    qk_norm: Literal["head", "width"] | None = None
    # Positions
    rope_base: float = 10_000.0
    rope_style: Literal["half", "interleaved"] = (
        "half"  # which coordinates pair up: (i, i + d/2) or (2i, 2i + 1)
    )
    rope_fraction: float = 1.0  # share of head_dim that rotates
    rope_pattern: tuple[bool, ...] | None = None  # which layers rotate (SmolLM3); None: all
    rope_scaling: RopeScaling | None = None  # not applied where local_rope_base is
    local_rope_base: float | None = None  # base on sliding-window layers, if another
    learned_positions: bool = False  # one vector for each position, added to the embedding; nothing rotates
    max_length: int | None = None  # tokens of prompt and response that the model can tell apart; None: any
    # Attention
    query_scale: float | None = None  # None: head_dim ** -0.5
    attention_soft_cap: float | None = None  # cap * tanh(scores / cap)
    sliding_window: int | None = None  # keys a local layer sees, itself included
    global_every: int | None = None  # layer i is global when (i + 1) % global_every == 0; None: all are local
    local_pattern: tuple[bool, ...] | None = None  # which layers are local, where no period says it
    qkv_bias: bool = False
    output_bias: bool = False
    # The rest
    activation: Literal["silu", "gelu_tanh", "gelu"] = "silu"
    gated: bool = True  # activation(gate) * up, not activation(up)
    mlp_bias: bool = False
    parallel_residual: bool = False  # x + attention(x) + mlp(x) (NeoX)
    scale_embedding: bool = False  # Gemma: times sqrt(embed)
    logit_soft_cap: float | None = None

    def __post_init__(self) -> None:
        for name in ("vocab", "embed", "layers", "heads", "kv_heads", "head_dim", "mlp"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"TransformerSizes.{name}: expected a positive int, got {value!r}")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"TransformerSizes.kv_heads: must divide heads ({self.heads}), got {self.kv_heads}; each key "
                "head serves the same number of query heads"
            )
        for name, choices in (
            ("norm", ("rms", "layer")),
            ("rope_style", ("half", "interleaved")),
            ("activation", ("silu", "gelu_tanh", "gelu")),
            ("qk_norm", (None, "head", "width")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"TransformerSizes.{name}: expected one of {choices}, got {getattr(self, name)!r}"
                )
        for name in ("norm_eps", "rope_base", "local_rope_base", "query_scale", "attention_soft_cap"):
            self._check_positive(name)
        for name in ("sliding_window", "global_every", "logit_soft_cap", "max_length"):
            self._check_positive(name)
        self._check_positions()
        if self.norm == "layer" and (self.norm_offset or self.qk_norm):
            raise ValueError("TransformerSizes.norm: norm_offset and qk_norm are for norm='rms'")
        if self.parallel_residual and self.post_norms:
            raise ValueError("TransformerSizes: parallel_residual and post_norms exclude each other")
        if not (self.pre_norms or self.post_norms):
            raise ValueError("TransformerSizes: without pre_norms and post_norms nothing is normalised")

    def _check_positive(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None and value <= 0:
            raise ValueError(f"TransformerSizes.{name}: expected a positive number, got {value!r}")

    def _check_positions(self) -> None:
        if not 0 < self.rope_fraction <= 1 or self.rotary_dim % 2 or self.rotary_dim < 2:
            raise ValueError(
                f"TransformerSizes.rope_fraction: rotates {self.rotary_dim} of head_dim={self.head_dim} "
                "coordinates; expected an even number of at least 2"
            )
        local = self.global_every or self.local_rope_base or self.local_pattern
        if self.sliding_window is None and local:
            raise ValueError(
                "TransformerSizes: global_every, local_pattern and local_rope_base describe sliding-window "
                "layers; give sliding_window"
            )
        if self.global_every and self.local_pattern:
            raise ValueError("TransformerSizes: global_every and local_pattern exclude each other")
        for name in ("local_pattern", "rope_pattern"):
            pattern = getattr(self, name)
            if pattern is not None and len(pattern) != self.layers:
                raise ValueError(
                    f"TransformerSizes.{name}: expected one bool for each of {self.layers} layers, got "
                    f"{len(pattern)}"
                )
        if self.learned_positions and (self.max_length is None or self.rope_pattern or self.rope_scaling):
            raise ValueError("TransformerSizes.learned_positions: needs max_length, and nothing rotates")
        scaling = self.rope_scaling
        if scaling is not None and scaling.kind == "longrope":
            counts = {len(scaling.short_factors), len(scaling.long_factors)}
            if counts != {self.rotary_dim // 2}:
                raise ValueError(
                    f"TransformerSizes.rope_scaling: expected {self.rotary_dim // 2} short and long factors, "
                    f"one for each rotating pair, got {sorted(counts)}"
                )

    @property
    def rotary_dim(self) -> int:
        """Coordinates of each head that rotate, rounded down."""
        return int(self.head_dim * self.rope_fraction)

    @property
    def longest(self) -> int | None:
        """Tokens that a sequence may have: `max_length`, or up to where longrope takes its other factors."""
        scaling = self.rope_scaling
        if scaling is None or scaling.kind != "longrope" or scaling.long:
            return self.max_length
        return min(scaling.original_length, self.max_length or scaling.original_length)

    @property
    def local_layers(self) -> tuple[bool, ...]:
        """Which layers attend through the sliding window, first layer first."""
        if self.sliding_window is None:
            return (False,) * self.layers
        if self.local_pattern is not None:
            return self.local_pattern
        return tuple(
            self.global_every is None or (i + 1) % self.global_every != 0 for i in range(self.layers)
        )
