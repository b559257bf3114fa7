#!/usr/bin/env bash
# transformers 4: a Gemma 2 loaded as usual computes without the soft cap of its attention scores, and says nothing.
#
# Expected: AutoModelForCausalLM.from_pretrained gives the model that config.json describes, attn_logit_softcapping
#   included; another attention implementation changes logits by rounding.
# Seen (transformers 4.57.6, torch 2.15.0): "sdpa" is chosen by default and takes no cap, so it is left out: logits
#   equal those of a configuration without the cap, and differ from "eager" by units. In 5.24.0 the default is
#   "eager", and "sdpa" is refused. Log-probs, rewards and references of Gemma 2 from the older one are of another
#   model (the released ones cap at 50, so the difference is small until a score is large).
# What helps: attn_implementation="eager" in the call; in config.json it is ignored.
#
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/cap.py" <<'PY'
import copy
import sys
import tempfile
import warnings

import torch
import transformers

warnings.simplefilter("ignore")
transformers.logging.set_verbosity_error()
version = transformers.__version__
print(f"transformers {version}, torch {torch.__version__}")
torch.manual_seed(0)
sizes = dict(vocab_size=31, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
config = transformers.Gemma2Config(
    **sizes, head_dim=8, intermediate_size=48, pad_token_id=0, attn_logit_softcapping=1.0, initializer_range=0.7
)
tokens = torch.arange(1, 25)[None]
with tempfile.TemporaryDirectory() as folder:
    transformers.Gemma2ForCausalLM(config).save_pretrained(folder)

    def logits(cap=1.0, **how):
        of = copy.deepcopy(transformers.AutoConfig.from_pretrained(folder))
        of.attn_logit_softcapping = cap
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, config=of, **how).eval()
        with torch.no_grad():
            return model(tokens).logits

    usual, eager = logits(), logits(attn_implementation="eager")
    uncapped = logits(cap=None, attn_implementation="eager")
to_eager, to_uncapped = (float((usual - other).abs().max()) for other in (eager, uncapped))
print(f"  as usual against eager: {to_eager:.1e}; against a model without the cap: {to_uncapped:.1e}")
if version.startswith("4."):
    as_seen = to_uncapped < 1e-3 < 1e-1 < to_eager
else:
    as_seen = to_eager < 1e-3 < 1e-1 < to_uncapped
if not as_seen:
    sys.exit("changed")
PY
for version in 4.57.6 5.24.0; do
  python3 -m venv "$work/$version"
  "$work/$version/bin/pip" install --quiet --disable-pip-version-check "transformers==$version" "torch==2.15.0" 2>/dev/null
  "$work/$version/bin/python" "$work/cap.py"
done
