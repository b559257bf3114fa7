"""What another library computes of the same folder."""

import os
from typing import Any

import numpy as np
from jaxtyping import Float, Int

__all__ = ["check_transformers", "transformers_ids", "transformers_logits"]

_OFFLINE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def check_transformers() -> None:
    """Raises ValueError where it or torch is not installed."""
    _libraries()


def transformers_logits(
    path: str, tokens: Int[np.ndarray, "b t"], *, keep: int
) -> tuple[str, Float[np.ndarray, "b n v"]]:
    """Version of transformers, and its float32 logits at the `keep` positions before the last one.

    Attention is written out (`eager`), as the fused ones leave out soft caps; code in the folder is not run.

    Raises:
      ValueError: it or torch is not installed, or does not load the folder.
    """
    torch, transformers = _libraries()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, attn_implementation="eager", **_OFFLINE
        ).eval()
        with torch.no_grad():
            ids = torch.from_numpy(np.asarray(tokens, np.int64))
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=keep + 1).logits[:, :-1]
    except Exception as error:  # whatever another library raises
        raise ValueError(
            f"transformers {transformers.__version__} does not run {path}: {type(error).__name__}: {error}"
        ) from error
    return transformers.__version__, logits.float().numpy()


def transformers_ids(path: str, text: str) -> tuple[list[int], list[int] | None]:
    """Ids of a text by its tokenizer, as it comes, and of a user's turn in its template (None: it has none).

    Raises:
      ValueError: as `transformers_logits`.
    """
    _, transformers = _libraries()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, **_OFFLINE)
        ids = tokenizer(text)["input_ids"]
        if not tokenizer.chat_template:
            return ids, None
        turns = [{"role": "user", "content": text}]
        turn = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return ids, tokenizer(turn, add_special_tokens=False)["input_ids"]
    except Exception as error:
        raise ValueError(
            f"transformers {transformers.__version__} does not tokenise by {path}: {type(error).__name__}: "
            f"{error}"
        ) from error


def _libraries() -> tuple[Any, Any]:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the folder is all that is asked about
    try:
        import torch  # pyright: ignore[reportMissingImports]
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"--against-transformers needs torch and transformers ({error}); install them beside jaxpref, or "
            "leave the option out"
        ) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers
