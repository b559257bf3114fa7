"""Makes chat_templates.json: texts and token ids of conversations in small chat templates of ours.

    python3 -m venv env && . env/bin/activate
    pip install transformers==5.24.0 jinja2==3.1.6
    python chat_templates.py --older env4/bin/python

`--older` is the interpreter of an environment with transformers==4.57.6; without it, what that version makes of
them is left out. No template here is one of a model: each is a few lines that do one thing which some models'
templates do. The tokenizers are tiny, and their files are in the JSON.
"""

import argparse
import datetime
import json
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
CONTROLS = ["<|bos|>", "<|im_start|>", "<|im_end|>", "<|call_end|>", "<|endoftext|>"]
OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def turns(content: str = "m.content", end: str = "<|im_end|>\n", before: str = "") -> str:
    """A template of turns; `content`: an expression."""
    turn = "<|im_start|>{{ m.role }}\n{{ " + content + " }}" + end
    return "{{ bos_token }}{% for m in messages %}" + before + turn + "{% endfor %}" + OPEN


LAST = "{% set last = messages | map(attribute='role') | list %}{% set n = namespace(user=-1) %}"
LAST += "{% for r in last %}{% if r == 'user' %}{% set n.user = loop.index0 %}{% endif %}{% endfor %}"
ANSWER = "(m.content.split('</think>')[-1] if m.role == 'assistant' else m.content)"
CALLS = (
    "{{ bos_token }}{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls %}"
    "<call>{{ c.function.name }} {{ c.function.arguments | tojson }}</call>{% endfor %}"
    "{{ '<|call_end|>' if m.tool_calls else '<|im_end|>\n' }}{% endfor %}" + OPEN
)
TEMPLATES = {
    "plain": turns(),
    "no_bos": turns().removeprefix("{{ bos_token }}"),
    "default_system": "{{ bos_token }}{% if messages[0].role != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n"
    "{% endif %}" + turns().removeprefix("{{ bos_token }}"),
    "trims": turns("m.content | trim", end="<|im_end|>"),
    "no_system": turns(
        before="{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    ),
    "system_into_user": "{{ bos_token }}{% set first = messages[0].content + '\n\n' if messages[0].role == 'system'"
    " else '' %}{% for m in messages %}{% if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
    "{{ (first if loop.index0 == 1 else '') + m.content }}<|im_end|>\n{% endif %}{% endfor %}" + OPEN,
    "drops_thinking": LAST
    + turns(
        "(m.content if m.role != 'assistant' or loop.index0 > n.user else m.content.split('</think>')[-1] | trim)"
    ),
    "empty_thinking": turns(
        "('<think>\n\n</think>\n\n' if m.role == 'assistant' and loop.last and '</think>' not in m.content else '')"
        " ~ m.content"
    ),
    "drops_all_thinking": turns(ANSWER),
    "opens_thinking": turns(ANSWER).removesuffix("{% endif %}") + "<think>\n{% endif %}",
    "eos_without_prompt": turns() + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}",
    "no_end": turns(end="\n"),
    "own_date": "{% if strftime_now is defined %}{% set d = strftime_now('%d %b %Y') %}{% else %}"
    "{% set d = '26 Jul 2024' %}{% endif %}<|im_start|>system\nToday: {{ d }}<|im_end|>\n" + turns(),
    "todays_date": "<|im_start|>system\n{{ strftime_now('%Y-%m-%d') }}<|im_end|>\n" + turns(),
    "no_opening": "{{ bos_token }}{% for m in messages %}{{ '[' + m.content + ']' if m.role == 'user' else "
    "m.content + eos_token }}{% endfor %}",
    "channel": turns("('<channel>final\n' if m.role == 'assistant' else '') + m.content"),
    "calls": CALLS,
    "parts": turns("m.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join"),
    "generation": "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}"
    "\n{% endfor %}" + OPEN,
}


def user(content: str) -> dict:
    """A turn of the user."""
    return {"role": "user", "content": content}


def reply(content: str, **more: object) -> dict:
    """A turn of the assistant."""
    return {"role": "assistant", "content": content, **more}


CALL = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris é", "days": 2}}}]
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "a <b> & 'c'", "parameters": {}}}
]
CONVERSATIONS = {
    "one": [user("Hi there"), reply("hello 12")],
    "spaces": [user("  Hi \n"), reply(" hello \n")],
    "system": [
        {"role": "system", "content": "Be brief."},
        user("Hi"),
        reply("hello"),
        user("So?"),
        reply("Yes"),
    ],
    "thinking": [
        user("2?"),
        reply("<think>\na\n</think>\n\n4"),
        user("3?"),
        reply("<think>\nb\n</think>\n\n6"),
    ],
    "tools": [
        user("Weather?"),
        reply("", tool_calls=CALL),
        {"role": "tool", "content": '{"t": 20}'},
        reply("It is 20."),
    ],
    "call": [user("Weather?"), reply("See:", tool_calls=CALL)],
    "controls": [user("say <|im_end|> or <|bos|>"), reply("<|im_start|> it is")],
    "unicode": [user("日本 <b>&amp;</b> 'a' \"b\" {{ x }} 🙂"), reply("naïve\n\n  ok")],
}


def tokenizers() -> dict[str, dict[str, str]]:
    """Files of tokenizers: byte-level pieces after BOS, and pieces with a space in front, also after BOS."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "hello"), ("Ċ", "Ċ"), ("Ġ", "Ġ")]
    symbols = [
        *CONTROLS,
        "<think>",
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *(a + b for a, b in merges),
    ]
    level = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(symbols)}, merges=merges))
    level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    level.decoder = decoders.ByteLevel()

    spaced = [("▁", "h"), ("▁h", "e"), ("l", "l"), ("▁he", "ll"), ("\n", "\n")]
    letters = [chr(i) for i in range(32, 127)] + ["▁", "\n"]
    symbols = [
        *CONTROLS,
        "<think>",
        *(f"<0x{i:02X}>" for i in range(256)),
        *letters,
        *(a + b for a, b in spaced),
    ]
    meta = Tokenizer(
        models.BPE(vocab={s: i for i, s in enumerate(symbols)}, merges=spaced, byte_fallback=True)
    )
    meta.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    meta.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    config = {
        "bos_token": "<|bos|>",
        "eos_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    files = {}
    for name, tokenizer in (("byte_level", level), ("metaspace", meta)):
        tokenizer.add_special_tokens(CONTROLS)
        tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", 0)]
        )
        files[name] = {"tokenizer.json": tokenizer.to_str(), "tokenizer_config.json": json.dumps(config)}
    return files


def made(files: dict[str, dict[str, str]]) -> dict[str, dict[str, object]]:
    """Texts of each conversation in each template, with and without its last turn, and the ids of both."""
    from transformers import AutoTokenizer
    from transformers.utils import chat_template_utils

    class Today(datetime.datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime.datetime:
            return cls(2026, 12, 1)

    chat_template_utils.datetime = Today
    values: dict[str, dict[str, object]] = {}
    for kind, texts in files.items():
        with tempfile.TemporaryDirectory() as folder:
            for name, text in texts.items():
                pathlib.Path(folder, name).write_text(text)
            tokenizer = AutoTokenizer.from_pretrained(folder)
        for name, template in TEMPLATES.items():
            if kind == "metaspace" and name not in ("plain", "no_bos", "trims", "calls", "no_opening"):
                continue
            for which, messages in CONVERSATIONS.items():
                arguments = {"chat_template": template, "tools": TOOLS if name == "calls" else None}
                try:
                    parts = {
                        "prompt": (messages[:-1], True),
                        "whole": (messages, False),
                    }
                    written = {
                        part: tokenizer.apply_chat_template(
                            turns, add_generation_prompt=opened, tokenize=False, **arguments
                        )
                        for part, (turns, opened) in parts.items()
                    }
                    ids = {
                        f"{part}_ids": tokenizer(text, add_special_tokens=False)["input_ids"]
                        for part, text in written.items()
                    }
                    found = (written if kind == "byte_level" else {}) | ids
                except Exception as error:  # the template says no, or stumbles
                    found = {"error": f"{type(error).__name__}: {error}"[:100]}
                values.setdefault(kind, {})[f"{name}, {which}"] = found
    return values


def sanitized(files: dict[str, dict[str, str]]) -> dict[str, list[int]]:
    """Ids of the conversation with texts of control tokens, which transformers 5.24 can keep text."""
    from transformers import AutoTokenizer

    found = {}
    for kind, texts in files.items():
        with tempfile.TemporaryDirectory() as folder:
            for name, text in texts.items():
                pathlib.Path(folder, name).write_text(text)
            tokenizer = AutoTokenizer.from_pretrained(folder)
        arguments = {
            "chat_template": TEMPLATES["plain"],
            "sanitize_control_tokens": True,
            "return_dict": False,
        }
        found[kind] = tokenizer.apply_chat_template(CONVERSATIONS["controls"], **arguments)
    return found


def main() -> None:
    """Writes the JSON, or prints what this version makes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--older", help="python of an environment with transformers 4.57.6")
    parser.add_argument("--print", type=pathlib.Path, help="the files of the tokenizers, to print values of")
    options = parser.parse_args()
    if options.print:
        print(json.dumps(made(json.loads(options.print.read_text()))))
        return
    import transformers

    files = tokenizers()
    values = made(files)
    document = {"transformers": transformers.__version__, "tokenizers": files, "templates": TEMPLATES}
    document |= {"conversations": CONVERSATIONS, "tools": TOOLS, "values": values}
    document["sanitized"] = sanitized(files)
    if options.older:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as given:
            json.dump(files, given)
            given.flush()
            command = [options.older, __file__, "--print", given.name]
            older = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        different = {
            kind: {name: older[kind][name] for name in of_kind if older[kind][name] != of_kind[name]}
            for kind, of_kind in values.items()
        }
        document["different in 4.57.6"] = different
    text = json.dumps(document, ensure_ascii=False, indent=None, separators=(",", ":"))
    (HERE / "chat_templates.json").write_text(text.replace('},"', '},\n"') + "\n")
    print(len(text), "characters;", "errors:", sum("error" in v for v in values["byte_level"].values()))


if __name__ == "__main__":
    sys.exit(main())
