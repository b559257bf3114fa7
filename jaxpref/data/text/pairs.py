"""From one line of a preference file to a pair of texts with a shared prompt."""

import dataclasses
from collections import Counter
from typing import Any, NamedTuple

from jaxpref.data.text.boundary import UNEQUAL_PROMPTS, Drop, stable_group
from jaxpref.data.text.messages import (
    HH_REPLY,
    Message,
    check_text,
    hh_turns,
    messages_from_json,
    reply,
    user_turn,
)
from jaxpref.data.text.prompts import Prompt, PromptFields, asked, asked_in_turns, check_shared

__all__ = ["Pair", "PairFields", "hh_pair", "jsonl_pair"]

_NO_REPLY = "no assistant turn"
_IMPLICIT = "the prompt is what chosen and rejected have in common"
_NOTHING = "chosen and rejected begin with nothing in common, so there is no prompt"


@dataclasses.dataclass(frozen=True)
class PairFields(PromptFields):
    """Names of the columns of a pair, beside those of its prompt."""

    chosen: str = "chosen"
    rejected: str = "rejected"

    @property
    def names(self) -> set[str]:
        return {*super().names, self.chosen, self.rejected}


class Pair(NamedTuple):
    """A prompt and two replies to it."""

    prompt: Prompt
    chosen: Message
    rejected: Message


def hh_pair(chosen: str, rejected: str) -> Pair | Drop:
    """A pair of whole HH dialogues: the prompt is everything up to and with the last "\n\nAssistant:".

    The pair is dropped where the two prompts differ or there is no reply. The group is the first human turn,
    so that longer versions of one dialogue stay together.
    """
    ends = [text.rfind(HH_REPLY) + len(HH_REPLY) for text in (chosen, rejected)]
    if min(ends) < len(HH_REPLY):
        return Drop(_NO_REPLY)
    text = chosen[: ends[0]]
    if text != rejected[: ends[1]]:
        return Drop(UNEQUAL_PROMPTS)
    turns = hh_turns(text.removesuffix(HH_REPLY))
    first = next((turn["content"] for turn in turns if turn["role"] == "user"), text)
    prompt = Prompt(text, tuple(turns), stable_group(first))
    return Pair(prompt, reply(chosen[ends[0] :]), reply(rejected[ends[1] :]))


def jsonl_pair(
    row: dict[str, Any], fields: PairFields = PairFields(), notes: Counter[str] | None = None
) -> Pair | Drop:
    """A pair from an object with `chosen`, `rejected` and a prompt: each a text, a turn or a list of turns.

    Where both are whole conversations, or dialogues in HH's form, the prompt is what they share, up to the
    last reply; a prompt beside conversations must be one of the turns they share. Of plain texts it is the
    longest common text that ends before white space, and only where `fields.prompt` is None asks for that.
    `group` (a text or number) overrides what `split` keeps together.

    Args:
      fields: Names of the columns.
      notes: Counts what was done to rows, by what it was.

    Raises ValueError that says what is wrong with the row.
    """
    notes = Counter() if notes is None else notes
    chosen, rejected = (_response(row, name) for name in (fields.chosen, fields.rejected))
    prompt = asked(row, fields)
    if fields.prompt is None and "prompt" in row:
        raise ValueError("prompt=None says that rows have no prompt, and this one has; leave that option out")
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise ValueError("chosen and rejected: expected two texts or two lists of turns, got one of each")
    if isinstance(chosen, list) and isinstance(rejected, list):
        sides = messages_from_json(chosen), messages_from_json(rejected)
        return _from_turns(row, prompt, sides, fields, notes)
    assert isinstance(chosen, str)
    assert isinstance(rejected, str)
    dialogues = [HH_REPLY in text for text in (chosen, rejected)]
    if all(dialogues) or (prompt is None and any(dialogues)):
        return _hh(row, prompt, fields, notes)
    if prompt is None:
        return _implicit(row, chosen, rejected, fields, notes)
    return _answered(prompt, prompt.following(chosen), prompt.following(rejected), fields, notes)


def _hh(row: dict[str, Any], prompt: Prompt | None, fields: PairFields, notes: Counter[str]) -> Pair | Drop:
    pair = hh_pair(row[fields.chosen], row[fields.rejected])
    if isinstance(pair, Drop):
        return pair
    if row.get(fields.prompts[0] if fields.prompts else "") != pair.prompt.text:
        check_shared(row, prompt, list(pair.prompt.turns), fields)
    if fields.system in row:
        prompt = asked_in_turns(pair.prompt.turns, row, fields)
        chosen, rejected = (reply(side["content"].strip()) for side in (pair.chosen, pair.rejected))
        return _answered(prompt, chosen, rejected, fields, notes)
    if "group" not in row:
        return pair
    return pair._replace(prompt=dataclasses.replace(pair.prompt, group=stable_group(str(row["group"]))))


def _response(row: dict[str, Any], name: str) -> str | list:
    value = row[name]
    if not isinstance(value, str | list | dict):
        raise ValueError(f"{name}: expected a text or a list of turns, got {type(value).__name__}")
    if isinstance(value, str):
        check_text(name, value)
    return [value] if isinstance(value, dict) else value


def _answered(
    prompt: Prompt, chosen: Message, rejected: Message, fields: PairFields, notes: Counter[str]
) -> Pair:
    return Pair(prompt, *prompt.answered([chosen, rejected], fields, notes))


def _from_turns(
    row: dict[str, Any],
    prompt: Prompt | None,
    sides: tuple[list[Message], list[Message]],
    fields: PairFields,
    notes: Counter[str],
) -> Pair | Drop:
    chosen, rejected = sides
    one = len(chosen) == len(rejected) == 1 and chosen[0]["role"] == rejected[0]["role"] == "assistant"
    if one and prompt is not None:
        turns = list(prompt.turns or [user_turn(prompt.text or "")])
        return _answered(asked_in_turns(turns, row, fields), chosen[0], rejected[0], fields, notes)
    most = max(min(len(chosen), len(rejected)) - 1, 0)
    common = next((i for i in range(most) if chosen[i] != rejected[i]), most)
    shared = chosen[:common]
    replies = [turns[common:] for turns in sides]
    if any([turn["role"] for turn in turns] != ["assistant"] for turns in replies):
        # More than one turn is left, so what is being compared is not two replies to one prompt.
        return Drop(UNEQUAL_PROMPTS if all(replies) else _NO_REPLY)
    if not shared:
        raise ValueError(_no_prompt(row, fields))
    check_shared(row, prompt, shared, fields)
    return _answered(asked_in_turns(shared, row, fields), replies[0][0], replies[1][0], fields, notes)


def _implicit(
    row: dict[str, Any], chosen: str, rejected: str, fields: PairFields, notes: Counter[str]
) -> Pair:
    if fields.prompt is not None:
        raise ValueError(_no_prompt(row, fields))
    if fields.system in row:
        raise ValueError(f"{fields.system}: a system turn needs a prompt behind it; name the column of it")
    limit = min(len(chosen), len(rejected))
    common = next((i for i in range(limit) if chosen[i] != rejected[i]), limit)
    # Back to the last place where both go on with white space, so that no word is cut in two.
    while common > 0 and not (common < limit and chosen[common].isspace() and rejected[common].isspace()):
        common -= 1
    prompt = chosen[:common]
    notes[_IMPLICIT if prompt else _NOTHING] += 1
    if prompt and fields.plain_prompt == "turn":
        turn = asked_in_turns([user_turn(prompt.strip())], row, fields)
        return Pair(turn, reply(chosen[common:].strip()), reply(rejected[common:].strip()))
    group = stable_group(str(row["group"]) if "group" in row else prompt)
    return Pair(Prompt(prompt, (), group), reply(chosen[common:]), reply(rejected[common:]))


def _no_prompt(row: dict[str, Any], fields: PairFields) -> str:
    if fields.prompt is None:
        return "chosen and rejected have no turn in common that could be the prompt"
    taken = {fields.chosen, fields.rejected, fields.system, "group"}
    others = [name for name in sorted(row) if isinstance(row[name], str | list) and name not in taken]
    likely = next(
        (n for n in ("question", "instruction", "input", "query") if n in others), "".join(others[:1])
    )
    say = f"say which column is the prompt (prompt={likely!r}), or " if likely else ""
    return (
        f"the object has no {' or '.join(fields.prompts)}; it has {', '.join(sorted(row))}; {say}pass "
        "prompt=None for what chosen and rejected have in common"
    )
