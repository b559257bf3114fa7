"""Tokenizers with one small protocol; each constructor is a function of plain values."""

from jaxpref.data.text.tokenizers.base import Tokenizer as Tokenizer
from jaxpref.data.text.tokenizers.gguf import gguf_tokenizer as gguf_tokenizer
from jaxpref.data.text.tokenizers.gguf import gguf_tokenizer_files as gguf_tokenizer_files
from jaxpref.data.text.tokenizers.hugging_face import hf_tokenizer as hf_tokenizer
from jaxpref.data.text.tokenizers.llama2c import llama2c_tokenizer as llama2c_tokenizer
from jaxpref.data.text.tokenizers.llama2c import llama2c_tokenizer_files as llama2c_tokenizer_files
from jaxpref.data.text.tokenizers.sentence_piece import sentencepiece_tokenizer as sentencepiece_tokenizer
from jaxpref.data.text.tokenizers.sentence_piece import train_sentencepiece as train_sentencepiece
from jaxpref.data.text.tokenizers.simple import bytes_tokenizer as bytes_tokenizer
from jaxpref.data.text.tokenizers.simple import characters_tokenizer as characters_tokenizer
