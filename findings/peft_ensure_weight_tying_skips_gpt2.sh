#!/usr/bin/env bash
# PEFT: a saved embedding of a tied model leaves its head behind, and the flag that ties them does nothing for GPT-2.
#
# Expected: LoRA with modules_to_save=[the embedding] of a model whose head is that embedding trains one table, and with
#   ensure_weight_tying=True certainly does, whatever the embedding is called.
# Seen (peft 0.21.2, transformers 5.24.0): without the flag only the copy below the first layer changes and the head keeps
#   the old table. With it, Llama's (embed_tokens) is one table and the logits of the loaded adapter are those of the tied
#   model; GPT-2's (wte) is still two, and nothing says so.
# What helps: adapters that change an embedding above a tied base are merged before they are handed on, or their file is
#   checked for a head that equals the embedding.
#
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  "torch>=2.8" "transformers==5.24.0" "peft==0.21.2" 2>/dev/null

cat >"$work/tied.py" <<'PY'
import sys
import warnings

import peft
import torch
import transformers

warnings.simplefilter("ignore")
transformers.logging.set_verbosity_error()
small = {"vocab_size": 32, "tie_word_embeddings": True}
models = {
    "embed_tokens": transformers.LlamaConfig(
        **small, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    ),
    "wte": transformers.GPT2Config(**small, n_embd=16, n_layer=1, n_head=2, n_positions=16),
}
targets = {"embed_tokens": ["q_proj"], "wte": ["c_attn"]}
tokens = torch.arange(8)[None]
found = {}
for name, config in models.items():
    for flag in (False, True):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        lora = peft.LoraConfig(
            r=2, target_modules=targets[name], modules_to_save=[name], ensure_weight_tying=flag, task_type="CAUSAL_LM"
        )
        adapted = peft.get_peft_model(model, lora).eval()
        saved = [p for n, p in adapted.named_parameters() if p.requires_grad and name in n and p.shape == (32, 16)]
        table = torch.randn(32, 16)
        with torch.no_grad():
            for parameter in saved:
                parameter.copy_(table)
            hidden = adapted.base_model.model.base_model(tokens).last_hidden_state
            logits = adapted(tokens).logits
            found[name, flag] = bool(torch.allclose(logits, hidden @ table.T, atol=1e-5))
        print(
            f"peft {peft.__version__}, transformers {transformers.__version__}, {name}, ensure_weight_tying={flag}: "
            f"{'one table' if found[name, flag] else 'the head keeps the old table'}"
        )
expected = {("embed_tokens", False): False, ("embed_tokens", True): True, ("wte", False): False, ("wte", True): False}
if found != expected:
    sys.exit("changed")
PY
"$work/venv/bin/python" "$work/tied.py"
