"""Commands that answer prompts: once, or in a conversation."""

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import jax

from jaxpref import keys
from jaxpref.commands.opening import Options
from jaxpref.commands.speaking import Speaker, open_speaker
from jaxpref.data.text.boundary import prompt_ids
from jaxpref.data.text.dialogue import Message
from jaxpref.data.text.tokenizers.incremental import IncrementalText
from jaxpref.training import distributed

__all__ = ["chat", "sample"]

_HELP = "/reset begins a new conversation, Ctrl-C stops a reply, /exit or Ctrl-D ends"
# What moves the cursor, rings or colours: a reply is anybody's text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def sample(options: Options) -> int:
    distributed.initialize()
    speaker = open_speaker(options)
    tokenizer, begun = speaker.tokenizer, _begun(options)
    if options.chat:
        rows = [speaker.conversation([*begun, _user(prompt)]) for prompt in options.prompt]
    elif begun:
        raise ValueError("--system is a turn of a conversation; add --chat")
    else:
        rows = [prompt_ids(tokenizer, prompt) for prompt in options.prompt]
    key, between = keys.key(options.seed, None, "samples"), "\n" if options.chat else ""
    if len(rows) == options.num_samples == jax.process_count() == 1 and speaker.policy.stream is not None:
        _say(options.prompt[0] + between)
        for part, _ in speaker.stream(rows[0], key, goes_on=not options.chat, **_settings(options)):
            _say(part, bold=True)
        print()
        return 0
    prompts = speaker.prompts(rows, options.max_tokens)
    drawn = speaker.sample(prompts, key, num_samples=options.num_samples, **_settings(options))
    if jax.process_index() > 0:
        return 0
    for prompt, row, answers, kept, ended in zip(options.prompt, rows, *drawn, strict=False):  # some fill up
        for j in range(options.num_samples):
            ids = answers[j][kept[j]].tolist()
            text = IncrementalText(tokenizer, () if options.chat else row)
            _say(prompt + between)
            _say(text.end(ids[:-1] if ended[j] else ids), bold=True)
            print()
    return 0


def chat(options: Options) -> int:
    if jax.process_count() > 1:
        raise ValueError("chat runs as one process; `jaxpref sample --chat` answers on several")
    talk = _Talk(open_speaker(options), options)
    if talk.interactive:
        print(f"{talk.speaker.name}: {_HELP}", file=sys.stderr)
    for line in talk.lines():
        if line == "/exit":
            break
        if line == "/reset":
            talk.reset()
        elif line:
            talk.answer(line)
    return 0


class _Talk:
    """A conversation with a person at a terminal, or with the lines of a file."""

    def __init__(self, speaker: Speaker, options: Options) -> None:
        self.speaker, self.options = speaker, options
        _ = speaker.template  # without one, before the first question
        self.interactive = sys.stdin.isatty()
        self.turns = 0
        self.reset()

    def reset(self) -> None:
        self.messages: list[Message] = _begun(self.options)

    def lines(self) -> Iterator[str]:
        """What the person says, until they end it."""
        if not self.interactive:
            yield from (line.strip() for line in sys.stdin)
            return
        with contextlib.suppress(ImportError):  # Windows has none
            import readline  # noqa: F401  # gives `input` a history and editing keys
        while True:
            try:
                yield input("\n> ").strip()
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print(f"\n{_HELP}", file=sys.stderr)

    def answer(self, text: str) -> None:
        """Says a reply as it is drawn, and keeps both turns.

        Raises:
          ValueError: (where nobody is there to read it) the template does not write this turn, or the
            conversation has become too long for the model.
        """
        asked, said, ended = [*self.messages, _user(text)], "", False
        key = keys.fold(keys.key(self.options.seed, None, "samples"), self.turns)
        self.turns += 1
        note = f" [cut at --max-tokens {self.options.max_tokens}]"
        try:
            ids = self.speaker.conversation(asked)
            reply = self.speaker.stream(ids, key, goes_on=False, **_settings(self.options))
            for part, ended in reply:  # noqa: B007
                said += part
                _say(part)
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            note = " [stopped]"
        except ValueError as error:
            if not self.interactive:
                raise
            print(f"jaxpref: {' '.join(str(error).split())}", file=sys.stderr)
            return
        if not ended and self.interactive:
            print(note, end="", file=sys.stderr)
        print(flush=True)
        self.messages = [*asked, {"role": "assistant", "content": said}]


def _begun(options: Options) -> list[Message]:
    return [] if options.system is None else [{"role": "system", "content": options.system}]


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _settings(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("max_tokens", "temperature", "top_k", "top_p")}


def _say(text: str, *, bold: bool = False) -> None:
    """On a terminal without what would steer it; elsewhere as it is."""
    if sys.stdout.isatty():
        text = _CONTROL.sub("\ufffd", text)
        text = f"\033[1m{text}\033[0m" if bold and text else text
    print(text, end="", flush=True)
