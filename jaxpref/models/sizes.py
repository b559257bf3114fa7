"""Published sizes of the one decoder: families are configurations.

They are module-level functions, so that experiment files can name them.
"""

import dataclasses

from jaxpref.models.architecture import RopeScaling, TransformerSizes

__all__ = [
    "RopeScaling",
    "TransformerSizes",
    "gemma2_2b",
    "gemma3_1b",
    "gemma_2b",
    "gpt2_small",
    "llama3_1_70b",
    "llama3_1_8b",
    "llama3_2_1b",
    "mistral_7b",
    "olmo2_1b",
    "phi3_mini",
    "pythia_1_4b",
    "pythia_2_8b",
    "qwen2_5_0_5b",
    "qwen3_0_6b",
    "smollm2_135m",
    "smollm2_360m",
    "smollm3_3b",
    "stories260k",
    "tiny",
]


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


def llama3_1_70b() -> TransformerSizes:
    """Llama-3.1-70B (arXiv:2407.21783 Table 3)."""
    return dataclasses.replace(llama3_1_8b(), embed=8192, layers=80, heads=64, mlp=28_672)


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
        qk_norm="head",
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
        qk_norm="head",
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


def gpt2_small() -> TransformerSizes:
    """GPT-2, the smallest (Radford et al. 2019 Table 2, whose 117 million are 124 million weights)."""
    return TransformerSizes(
        vocab=50_257,
        embed=768,
        layers=12,
        heads=12,
        kv_heads=12,
        head_dim=64,
        mlp=3072,
        tied=True,
        norm="layer",
        learned_positions=True,
        max_length=1024,
        qkv_bias=True,
        output_bias=True,
        activation="gelu_tanh",
        gated=False,
        mlp_bias=True,
    )


def smollm3_3b() -> TransformerSizes:
    """SmolLM3-3B (sizes as in its released configuration): every fourth layer knows no positions."""
    return TransformerSizes(
        vocab=128_256,
        embed=2048,
        layers=36,
        heads=16,
        kv_heads=4,
        head_dim=128,
        mlp=11_008,
        tied=True,
        norm_eps=1e-6,
        rope_base=5_000_000.0,
        rope_pattern=tuple((i + 1) % 4 != 0 for i in range(36)),
    )


def olmo2_1b() -> TransformerSizes:
    """OLMo-2-0425-1B (arXiv:2501.00656): norms behind the sublayers only."""
    return TransformerSizes(
        vocab=100_352,
        embed=2048,
        layers=16,
        heads=16,
        kv_heads=16,
        head_dim=128,
        mlp=8192,
        norm_eps=1e-6,
        pre_norms=False,
        post_norms=True,
        qk_norm="width",
        rope_base=500_000.0,
    )


def phi3_mini() -> TransformerSizes:
    """Phi-3-mini-4k (arXiv:2404.14219), with the window of its released configuration."""
    return TransformerSizes(
        vocab=32_064,
        embed=3072,
        layers=32,
        heads=32,
        kv_heads=32,
        head_dim=96,
        mlp=8192,
        sliding_window=2047,
    )
