"""Folders with the tokenizers and chat templates that `third_party/transformers/chat_templates.py` made."""

import functools
import json
import pathlib

__all__ = ["chat_folder", "oracle"]

_FILE = pathlib.Path(__file__).resolve().parents[1] / "third_party" / "transformers" / "chat_templates.json"


@functools.cache
def oracle():
    """What transformers made of each conversation in each template."""
    return json.loads(_FILE.read_text())


def chat_folder(root, template=None, kind="byte_level"):
    """A folder of a tokenizer and, by its name, a template; made once."""
    folder = pathlib.Path(root) / f"{kind}_{template}"
    if not folder.exists():
        folder.mkdir()
        for name, text in oracle()["tokenizers"][kind].items():
            (folder / name).write_text(text)
        if template is not None:
            (folder / "chat_template.jinja").write_text(oracle()["templates"][template])
    return str(folder)
