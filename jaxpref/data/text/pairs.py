"""From one line of a preference file to a pair of texts with a shared prompt."""

from typing import Any, NamedTuple

from jaxpref.data.text.boundary import UNEQUAL_PROMPTS, Drop, stable_group
from jaxpref.data.text.dialogue import HH_REPLY, Turn, hh_template, hh_turns, turns_from_json

__all__ = ["TextPair", "hh_pair", "jsonl_pair"]

_NO_REPLY = "no assistant turn"


class TextPair(NamedTuple):
    """A prompt and two responses to it, as text.

    The text of a completion is `prompt + chosen` (nothing in between). `turns` are the prompt's turns where
    it is a dialogue, so that it can be written in another template; empty for plain text.
    """

    prompt: str
    chosen: str
    rejected: str
    group: int  # rows of one group stay on one side of a split
    turns: tuple[Turn, ...] = ()


def hh_pair(chosen: str, rejected: str) -> TextPair | Drop:
    """A pair of whole HH dialogues: the prompt is everything up to and with the last "\\n\\nAssistant:".

    The pair is dropped where the two prompts differ or there is no reply. The group is the first human turn,
    so that longer versions of one dialogue stay together.
    """
    ends = [text.rfind(HH_REPLY) + len(HH_REPLY) for text in (chosen, rejected)]
    if min(ends) < len(HH_REPLY):
        return Drop(_NO_REPLY)
    prompt = chosen[: ends[0]]
    if prompt != rejected[: ends[1]]:
        return Drop(UNEQUAL_PROMPTS)
    turns = hh_turns(prompt.removesuffix(HH_REPLY))
    return TextPair(prompt, chosen[ends[0] :], rejected[ends[1] :], _group(turns, prompt), tuple(turns))


def jsonl_pair(row: Any) -> TextPair | Drop:
    """A pair from an object with `chosen`, `rejected` and, unless it is implicit, `prompt`.

    Each is a text or a list of turns. Without `prompt`, it is what the two have in common: the longest
    common run of turns, the HH dialogue up to the last reply, or the longest common text that ends before
    white space. `group` (a text or number) overrides what `split` keeps together.

    Raises ValueError that says what is wrong with the row.
    """
    if not isinstance(row, dict):
        raise ValueError(f"expected an object with chosen and rejected, got {type(row).__name__}")
    missing = [name for name in ("chosen", "rejected") if name not in row]
    if missing:
        raise ValueError(f"the object has no {' and no '.join(missing)}; it has {sorted(row)}")
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    for name, value in (("prompt", prompt), ("chosen", chosen), ("rejected", rejected)):
        if not isinstance(value, str | list) and not (name == "prompt" and value is None):
            raise ValueError(f"{name}: expected a text or a list of turns, got {type(value).__name__}")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise ValueError("chosen and rejected: expected two texts or two lists of turns, got one of each")
    if isinstance(chosen, list):
        pair = _from_turns(prompt, turns_from_json(chosen), turns_from_json(rejected))
    elif isinstance(prompt, list):
        pair = _conversation(turns_from_json(prompt), chosen, rejected)
    elif prompt is not None:
        pair = TextPair(prompt, chosen, rejected, stable_group(prompt))
    elif HH_REPLY in chosen or HH_REPLY in rejected:
        pair = hh_pair(chosen, rejected)
    else:
        pair = _implicit(chosen, rejected)
    if "group" in row and isinstance(pair, TextPair):
        pair = pair._replace(group=stable_group(str(row["group"])))
    return pair


def _from_turns(prompt: Any, chosen: list[Turn], rejected: list[Turn]) -> TextPair | Drop:
    # A text beside whole conversations repeats their first turn (UltraFeedback's form): the turns say more.
    given = turns_from_json(prompt) if isinstance(prompt, list) else None
    if given is not None and chosen[: len(given)] == given and rejected[: len(given)] == given:
        chosen, rejected = chosen[len(given) :], rejected[len(given) :]
    if isinstance(prompt, str) and len(chosen) == len(rejected) == 1:
        given = [("user", prompt)]
    if given is None:
        most = min(len(chosen), len(rejected)) - 1
        common = next((i for i in range(most) if chosen[i] != rejected[i]), max(most, 0))
        given, chosen, rejected = chosen[:common], chosen[common:], rejected[common:]
    if [role for role, _ in chosen] != ["assistant"] or [role for role, _ in rejected] != ["assistant"]:
        # More than one turn is left, so what is being compared is not two replies to one prompt.
        return Drop(UNEQUAL_PROMPTS if chosen and rejected else _NO_REPLY)
    return _conversation(given, chosen[0][1], rejected[0][1])


def _conversation(turns: list[Turn], chosen: str, rejected: str) -> TextPair:
    text, lead = hh_template(turns)
    return TextPair(text, lead + chosen, lead + rejected, _group(turns, text), tuple(turns))


def _implicit(chosen: str, rejected: str) -> TextPair:
    limit = min(len(chosen), len(rejected))
    common = next((i for i in range(limit) if chosen[i] != rejected[i]), limit)
    # Back to the last place where both go on with white space, so that no word is cut in two.
    while common > 0 and not (common < limit and chosen[common].isspace() and rejected[common].isspace()):
        common -= 1
    prompt = chosen[:common]
    return TextPair(prompt, chosen[common:], rejected[common:], stable_group(prompt))


def _group(turns: list[Turn], text: str) -> int:
    return stable_group(next((content.strip() for role, content in turns if role == "user"), text))
