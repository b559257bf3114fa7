"""llama2.c's tokenizer files (`tok512.bin`, `tokenizer.bin`).

File: int32 longest piece, then for each id a float32 score, an int32 length and the piece's bytes.
Encoding is the one of llama2.c's `run.c`: a space in front of the text, characters looked up with bytes
as the fallback (byte `x` at id `x + 3`), then the adjacent pair whose union scores highest is joined until
none is in the vocabulary, leftmost first on ties.
"""

import functools
import heapq
import json
import re
import struct
from collections.abc import Sequence
from pathlib import Path

from jaxpref.data.text.tokenizers.base import Tokenizer, digest
from jaxpref.data.text.tokenizers.hugging_face import library

__all__ = ["llama2c_tokenizer", "llama2c_tokenizer_files"]

_BOS, _EOS, _BYTES = 1, 2, 3
_SPECIAL = ("<unk>", "<s>", "</s>")  # ids 0 to 2, by the names that folders give them
_SPACE = "▁"  # what stands for a space in such vocabularies
_BYTE_PIECE = re.compile(rb"<0x([0-9A-F]{2})>")


class _Llama2c:
    bos_id: int | None = _BOS
    eos_id: int = _EOS
    pad_id: int = 0  # <unk>: never scored, because masks come from lengths

    def __init__(self, pieces: list[bytes], scores: list[float], fingerprint: str):
        self.vocab_size = len(pieces)
        self.fingerprint = fingerprint
        self._pieces = pieces
        self._scores = scores
        # First id wins, and ids 0..258 (specials and byte pieces) are never spelled out in text.
        self._ids: dict[bytes, int] = {}
        for index in range(_BYTES + 256, len(pieces)):
            self._ids.setdefault(pieces[index], index)
        # No piece joins text across the start of a space, so text falls apart there and words can be
        # cached: the same ids, about 20 times faster on dialogues.
        self._by_word = all(b" " not in piece[1:] for piece in self._ids)
        self._merged = functools.lru_cache(maxsize=1 << 16)(self._merge)

    def encode(self, text: str) -> list[int]:
        if not text:
            return []
        text = " " + text
        parts = re.findall(r" ?[^ ]+| ", text) if self._by_word else [text]
        return [i for part in parts for i in self._merged(part)]

    def decode(self, ids: Sequence[int]) -> str:
        text = b"".join(self._bytes(int(i)) for i in ids)
        return text.removeprefix(b" ").decode(errors="replace")

    def _bytes(self, index: int) -> bytes:
        if index < _BYTES or index >= self.vocab_size:
            return b""
        byte = _BYTE_PIECE.fullmatch(self._pieces[index])
        return bytes([int(byte[1], 16)]) if byte else self._pieces[index]

    def _merge(self, text: str) -> tuple[int, ...]:
        """Ids of one part; a heap of candidate joins over a linked list of pieces."""
        ids: list[int] = []
        for character in text:
            data = character.encode()
            known = self._ids.get(data)
            ids.extend([known] if known is not None else [byte + _BYTES for byte in data])
        size = len(ids)
        following, preceding = list(range(1, size + 1)), list(range(-1, size - 1))
        heap: list[tuple[float, int, int, int, int]] = []

        def offer(left: int) -> None:
            right = following[left]
            if left < 0 or right >= size:
                return
            union = self._ids.get(self._pieces[ids[left]] + self._pieces[ids[right]])
            if union is not None:
                heapq.heappush(heap, (-self._scores[union], left, union, ids[left], ids[right]))

        for left in range(size - 1):
            offer(left)
        while heap:
            _, left, union, first, second = heapq.heappop(heap)
            right = following[left]
            # A join is stale once either side has changed; -1 marks a piece that was swallowed.
            if right >= size or ids[left] != first or ids[right] != second:
                continue
            ids[left], ids[right] = union, -1
            following[left] = following[right]
            if following[left] < size:
                preceding[following[left]] = left
            offer(left)
            if preceding[left] >= 0:
                offer(preceding[left])
        return tuple(i for i in ids if i >= 0)


def llama2c_tokenizer(path: str) -> Tokenizer:
    """Reads llama2.c's tokenizer file; BOS 1, EOS 2, padding 0.

    Raises ValueError where the file is missing, cut short or not of this format.
    """
    return _read(path)


def llama2c_tokenizer_files(path: str) -> dict[str, str]:
    """`tokenizer.json` and `tokenizer_config.json`, name -> text, with the ids of `llama2c_tokenizer`.

    Joining the pair whose union scores highest is byte-pair merging in the order of scores: each way to make
    a piece out of two others is a merge. (5,100 texts of Shakespeare, HH and random characters: the same ids,
    and the same texts back.) Raises ValueError as `llama2c_tokenizer`.
    """
    tokenizers, loaded = library(), _read(path)
    pieces, scores = loaded._pieces, loaded._scores
    names = [*_SPECIAL, *(piece.decode(errors="replace").replace(" ", _SPACE) for piece in pieces[_BYTES:])]
    known: dict[str, int] = {}
    for index in range(_BYTES + 256, len(names)):
        known.setdefault(names[index], index)
    merges = [
        (-scores[index], known[name[:cut]], known[name[cut:]], (name[:cut], name[cut:]))
        for name, index in known.items()
        for cut in range(1, len(name))
        if name[:cut] in known and name[cut:] in known
    ]
    model = tokenizers.models.BPE(
        vocab={name: index for index, name in enumerate(names)},
        merges=[pair for *_, pair in sorted(merges)],
        byte_fallback=True,
        unk_token=_SPECIAL[0],
        fuse_unk=True,
    )
    made, of = tokenizers.Tokenizer(model), tokenizers.decoders
    normal = tokenizers.normalizers
    made.normalizer = normal.Sequence([normal.Prepend(_SPACE), normal.Replace(" ", _SPACE)])
    made.decoder = of.Sequence([of.Replace(_SPACE, " "), of.ByteFallback(), of.Fuse(), of.Strip(" ", 1, 0)])
    made.add_special_tokens(list(_SPECIAL))
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[("<s>", 1)]
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<unk>",
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
    }
    return {
        "tokenizer.json": made.to_str(pretty=True),
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
    }


def _read(path: str) -> _Llama2c:
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"llama2c_tokenizer: no file {path}; give the .bin that belongs to the checkpoint")
    data = file.read_bytes()
    pieces, scores, at = [], [], 4
    while at < len(data):
        header = data[at : at + 8]
        score, length = struct.unpack("<fi", header) if len(header) == 8 else (0.0, -1)
        piece = data[at + 8 : at + 8 + max(length, 0)]
        if length < 0 or len(piece) != length:
            raise ValueError(
                f"llama2c_tokenizer: {path} ends inside piece {len(pieces)} (byte {at} of {len(data)}); "
                "the download is incomplete or this is not a llama2.c tokenizer"
            )
        pieces.append(piece)
        scores.append(score)
        at += 8 + length
    if len(pieces) < _BYTES + 256 or pieces[_BYTES] != b"<0x00>":
        raise ValueError(
            f"llama2c_tokenizer: {path} holds {len(pieces)} pieces without the byte pieces at ids 3..258; "
            "this is not a llama2.c tokenizer"
        )
    return _Llama2c(pieces, scores, digest("llama2c", data))
