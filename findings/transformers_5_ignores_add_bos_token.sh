#!/usr/bin/env bash
# transformers: `add_bos_token` of tokenizer_config.json decides in 4.57 and is ignored in 5.24, so BOS comes or goes.
#
# Expected: a folder with `tokenizer_class: LlamaTokenizerFast`, `add_bos_token` and a tokenizer.json gives the same ids
#   in both generations; or the newer one says that it does not read the flag.
# Seen (transformers 4.57.6 and 5.24.0): 4.57 rebuilds the post-processor of Llama's and Gemma's classes from the flag
#   (True where it is missing), whatever tokenizer.json has. 5.24 takes the flag out of the configuration wherever there
#   is a tokenizer.json and goes by that file's post-processor. Nothing is said. With the flag true and no
#   post-processor, BOS is gone after the update; with the flag false and one that puts BOS there, it comes.
#   Generic classes (PreTrainedTokenizerFast) ignore the flag in both.
# What helps: look at the first id of a text, or refuse a folder in which flag and post-processor contradict each other.
#
# Fails if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/bos.py" <<'PY'
import json
import logging
import pathlib
import sys
import tempfile
import warnings

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
print("transformers", transformers.__version__)
new = transformers.__version__.startswith("5.")


def first(tokenizer_class, flag, post_processor):
    """The first token of a text."""
    tokens = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3}
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    if post_processor:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    config = {"tokenizer_class": tokenizer_class, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config |= {} if flag is None else {"add_bos_token": flag}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(f"{folder}/tokenizer.json")
        pathlib.Path(folder, "tokenizer_config.json").write_text(json.dumps(config))
        loaded = transformers.AutoTokenizer.from_pretrained(folder)
    return loaded.convert_ids_to_tokens(loaded("a")["input_ids"])[0]


changed = []
for cls, flag, post, in_4, in_5 in (
    ("LlamaTokenizerFast", True, False, "<s>", "a"),
    ("LlamaTokenizerFast", False, True, "a", "<s>"),
    ("LlamaTokenizerFast", None, False, "<s>", "a"),
    ("LlamaTokenizerFast", None, True, "<s>", "<s>"),
    ("PreTrainedTokenizerFast", True, False, "a", "a"),
    ("PreTrainedTokenizerFast", False, True, "<s>", "<s>"),
):
    found = first(cls, flag, post)
    print(f"  {cls:<24} add_bos_token {flag!s:<5} post-processor with BOS {post!s:<5} first token {found}")
    if found.lstrip("▁") != (in_5 if new else in_4):
        changed.append((cls, flag, post))
if changed:
    sys.exit(f"changed: {changed}")
PY
for version in 4.57.6 5.24.0; do
    python3 -m venv "$work/$version"
    "$work/$version/bin/pip" install --quiet --disable-pip-version-check "transformers==$version" 2>/dev/null
    "$work/$version/bin/python" "$work/bos.py" 2>/dev/null
done
