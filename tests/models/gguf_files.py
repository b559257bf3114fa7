"""GGUF files of the Llama architecture."""

import numpy as np

NAMES = {
    "attn_q": ("attention", "query"),
    "attn_k": ("attention", "key"),
    "attn_v": ("attention", "value"),
    "attn_output": ("attention", "output"),
    "ffn_gate": ("mlp", "gate"),
    "ffn_up": ("mlp", "up"),
    "ffn_down": ("mlp", "down"),
}


def write_gguf(writer, params, sizes, *, without="", quantization=None, extra=None):
    """Writes sizes and params with what `writer` has of metadata, and closes it."""
    from gguf import quants

    writer.add_block_count(sizes.layers)
    writer.add_embedding_length(sizes.embed)
    writer.add_feed_forward_length(sizes.mlp)
    writer.add_head_count(sizes.heads)
    writer.add_head_count_kv(sizes.kv_heads)
    writer.add_key_length(sizes.head_dim)
    writer.add_layer_norm_rms_eps(sizes.norm_eps)
    writer.add_rope_freq_base(sizes.rope_base)
    tensors = {"token_embd": params["embedding"], "output_norm": params["final_norm"]["scale"]}
    if "unembedding" in params:
        tensors["output"] = params["unembedding"]
    blocks = params["blocks"]
    for i in range(sizes.layers):
        tensors[f"blk.{i}.attn_norm"] = blocks["attention_norm"]["scale"][i]
        tensors[f"blk.{i}.ffn_norm"] = blocks["mlp_norm"]["scale"][i]
        for name, (module, weight) in NAMES.items():
            tensors[f"blk.{i}.{name}"] = blocks[module][weight]["weight"][i].T
    for name, value in (tensors | (extra or {})).items():
        if name == without:
            continue
        array = np.ascontiguousarray(value, np.float32)
        if quantization is not None and array.ndim == 2:
            writer.add_tensor(f"{name}.weight", quants.quantize(array, quantization), raw_dtype=quantization)
        else:
            writer.add_tensor(f"{name}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
