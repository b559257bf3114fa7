"""The numbers that make the one decoder a Llama, a Qwen, a Gemma or a Pythia: families are configurations.

Published sizes are module-level functions, so that experiment files can name them.
"""

import dataclasses
from typing import Literal

__all__ = [
    "RopeScaling",
    "TransformerSizes",
    "gemma2_2b",
    "gemma3_1b",
    "gemma_2b",
    "llama3_1_8b",
    "llama3_2_1b",
    "mistral_7b",
    "pythia_1_4b",
    "pythia_2_8b",
    "qwen2_5_0_5b",
    "qwen3_0_6b",
    "smollm2_135m",
    "smollm2_360m",
    "stories260k",
    "tiny",
]


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Stretching of rotary frequencies to contexts longer than those of pre-training.

    `linear` divides every frequency by `factor` (arXiv:2306.15595 eq. 4). `llama3` divides only the slow ones
    and blends in between: wavelengths above `original_length / low_frequency_factor` are divided, those
    below `original_length / high_frequency_factor` are kept (arXiv:2407.21783 Sec. 3.4.2; constants as in
    the released configuration files).
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_length: int = 8192  # tokens

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "llama3"):
            raise ValueError(f"RopeScaling.kind: expected 'linear' or 'llama3', got {self.kind!r}")
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
    post_norms: bool = False  # Gemma: normalise each sublayer's output too
    qk_norm: bool = False  # RMSNorm of each query and key head, before the rotation
    # Positions
    rope_base: float = 10_000.0
    rope_style: Literal["half", "interleaved"] = (
        "half"  # which coordinates pair up: (i, i + d/2) or (2i, 2i + 1)
    )
    rope_fraction: float = 1.0  # share of head_dim that rotates
    rope_scaling: RopeScaling | None = None  # not applied where local_rope_base is
    local_rope_base: float | None = None  # base on sliding-window layers, if another
    # Attention
    query_scale: float | None = None  # None: head_dim ** -0.5
    attention_soft_cap: float | None = None  # cap * tanh(scores / cap)
    sliding_window: int | None = None  # keys a local layer sees, itself included
    global_every: int | None = None  # layer i is global when (i + 1) % global_every == 0; None: all are local
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
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"TransformerSizes.{name}: expected one of {choices}, got {getattr(self, name)!r}"
                )
        for name in ("norm_eps", "rope_base", "local_rope_base", "query_scale", "attention_soft_cap"):
            self._check_positive(name)
        for name in ("sliding_window", "global_every", "logit_soft_cap"):
            self._check_positive(name)
        if not 0 < self.rope_fraction <= 1 or self.rotary_dim % 2 or self.rotary_dim < 2:
            raise ValueError(
                f"TransformerSizes.rope_fraction: rotates {self.rotary_dim} of head_dim={self.head_dim} "
                "coordinates; expected an even number of at least 2"
            )
        if self.sliding_window is None and (self.global_every or self.local_rope_base):
            raise ValueError(
                "TransformerSizes: global_every and local_rope_base describe sliding-window layers; give "
                "sliding_window"
            )
        if self.norm == "layer" and (self.norm_offset or self.qk_norm):
            raise ValueError("TransformerSizes.norm: norm_offset and qk_norm are for norm='rms'")
        if self.parallel_residual and self.post_norms:
            raise ValueError("TransformerSizes: parallel_residual and post_norms exclude each other")

    def _check_positive(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None and value <= 0:
            raise ValueError(f"TransformerSizes.{name}: expected a positive number, got {value!r}")

    @property
    def rotary_dim(self) -> int:
        """Coordinates of each head that rotate."""
        return round(self.head_dim * self.rope_fraction)

    @property
    def local_layers(self) -> tuple[bool, ...]:
        """Which layers attend through the sliding window, first layer first."""
        if self.sliding_window is None:
            return (False,) * self.layers
        return tuple(
            self.global_every is None or (i + 1) % self.global_every != 0 for i in range(self.layers)
        )


def tiny(
    *,
    vocab: int = 512,
    embed: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int | None = None,
    mlp: int | None = None,
    tied: bool = True,
    rope_base: float = 10_000.0,
) -> TransformerSizes:
    """A Llama of any size, for models trained from scratch.

    `kv_heads`: as many as heads if None. `mlp`: 8/3 of `embed`, rounded up to a multiple of 8, if None.
    """
    if heads < 1 or embed % heads:
        raise ValueError(f"tiny.heads: must divide embed ({embed}), got {heads}")
    return TransformerSizes(
        vocab=vocab,
        embed=embed,
        layers=layers,
        heads=heads,
        kv_heads=heads if kv_heads is None else kv_heads,
        head_dim=embed // heads,
        mlp=-(-8 * embed // 24) * 8 if mlp is None else mlp,
        tied=tied,
        rope_base=rope_base,
    )


def stories260k() -> TransformerSizes:
    """The 260,032-parameter TinyStories model of llama2.c (doc/stories260K.md there)."""
    return TransformerSizes(
        vocab=512,
        embed=64,
        layers=5,
        heads=8,
        kv_heads=4,
        head_dim=8,
        mlp=172,
        tied=True,
        rope_style="interleaved",
    )


def _smollm2(embed: int, layers: int, heads: int, mlp: int) -> TransformerSizes:
    return TransformerSizes(
        vocab=49_152,
        embed=embed,
        layers=layers,
        heads=heads,
        kv_heads=heads // 3,
        head_dim=64,
        mlp=mlp,
        tied=True,
        rope_base=100_000.0,
    )


def smollm2_135m() -> TransformerSizes:
    """SmolLM2-135M (arXiv:2502.02737)."""
    return _smollm2(embed=576, layers=30, heads=9, mlp=1536)


def smollm2_360m() -> TransformerSizes:
    """SmolLM2-360M (arXiv:2502.02737)."""
    return _smollm2(embed=960, layers=32, heads=15, mlp=2560)


def llama3_1_8b() -> TransformerSizes:
    """Llama-3.1-8B (arXiv:2407.21783 Table 3)."""
    return TransformerSizes(
        vocab=128_256,
        embed=4096,
        layers=32,
        heads=32,
        kv_heads=8,
        head_dim=128,
        mlp=14_336,
        rope_base=500_000.0,
        rope_scaling=RopeScaling("llama3", factor=8.0),
    )


def llama3_2_1b() -> TransformerSizes:
    """Llama-3.2-1B (sizes as in its released configuration)."""
    return TransformerSizes(
        vocab=128_256,
        embed=2048,
        layers=16,
        heads=32,
        kv_heads=8,
        head_dim=64,
        mlp=8192,
        tied=True,
        rope_base=500_000.0,
        rope_scaling=RopeScaling("llama3", factor=32.0),
    )


def mistral_7b() -> TransformerSizes:
    """Mistral-7B v0.1 (arXiv:2310.06825 Table 1)."""
    return TransformerSizes(
        vocab=32_000,
        embed=4096,
        layers=32,
        heads=32,
        kv_heads=8,
        head_dim=128,
        mlp=14_336,
        sliding_window=4096,
    )


def qwen2_5_0_5b() -> TransformerSizes:
    """Qwen2.5-0.5B (arXiv:2412.15115)."""
    return TransformerSizes(
        vocab=151_936,
        embed=896,
        layers=24,
        heads=14,
        kv_heads=2,
        head_dim=64,
        mlp=4864,
        tied=True,
        rope_base=1_000_000.0,
        norm_eps=1e-6,
        qkv_bias=True,
    )


def qwen3_0_6b() -> TransformerSizes:
    """Qwen3-0.6B (arXiv:2505.09388 Table 1)."""
    return TransformerSizes(
        vocab=151_936,
        embed=1024,
        layers=28,
        heads=16,
        kv_heads=8,
        head_dim=128,
        mlp=3072,
        tied=True,
        rope_base=1_000_000.0,
        norm_eps=1e-6,
        qk_norm=True,
    )


def gemma_2b() -> TransformerSizes:
    """Gemma-2B, the first one (arXiv:2403.08295 Table 1, whose vocabulary is padded to 256,128)."""
    return TransformerSizes(
        vocab=256_128,
        embed=2048,
        layers=18,
        heads=8,
        kv_heads=1,
        head_dim=256,
        mlp=16_384,
        tied=True,
        norm_eps=1e-6,
        norm_offset=True,
        activation="gelu_tanh",
        scale_embedding=True,
    )


def gemma2_2b() -> TransformerSizes:
    """Gemma-2-2B (arXiv:2408.00118 Table 1): local layers first, every second one global."""
    return TransformerSizes(
        vocab=256_000,
        embed=2304,
        layers=26,
        heads=8,
        kv_heads=4,
        head_dim=256,
        mlp=9216,
        tied=True,
        norm_eps=1e-6,
        norm_offset=True,
        post_norms=True,
        attention_soft_cap=50.0,
        logit_soft_cap=30.0,
        sliding_window=4096,
        global_every=2,
        activation="gelu_tanh",
        scale_embedding=True,
    )


def gemma3_1b() -> TransformerSizes:
    """Gemma-3-1B (arXiv:2503.19786 Sec. 2): five local layers to a global one."""
    return TransformerSizes(
        vocab=262_144,
        embed=1152,
        layers=26,
        heads=4,
        kv_heads=1,
        head_dim=256,
        mlp=6912,
        tied=True,
        norm_eps=1e-6,
        norm_offset=True,
        post_norms=True,
        qk_norm=True,
        rope_base=1_000_000.0,
        local_rope_base=10_000.0,
        sliding_window=512,
        global_every=6,
        activation="gelu_tanh",
        scale_embedding=True,
    )


def _pythia(embed: int, layers: int, heads: int) -> TransformerSizes:
    return TransformerSizes(
        vocab=50_304,
        embed=embed,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=embed // heads,
        mlp=4 * embed,
        norm="layer",
        rope_fraction=0.25,
        qkv_bias=True,
        output_bias=True,
        activation="gelu",
        gated=False,
        mlp_bias=True,
        parallel_residual=True,
    )


def pythia_1_4b() -> TransformerSizes:
    """Pythia-1.4B (arXiv:2304.01373 Table 1): NeoX blocks (arXiv:2204.06745)."""
    return _pythia(embed=2048, layers=24, heads=16)


def pythia_2_8b() -> TransformerSizes:
    """Pythia-2.8B (arXiv:2304.01373 Table 1), the model of the DPO paper: NeoX blocks (arXiv:2204.06745)."""
    return _pythia(embed=2560, layers=32, heads=32)
