"""Preference data: from files to records to batches.

Three rooms make records: `text` (prompts and responses as tokens), `behaviour` (segments of states and
actions) and `roads` (road networks and routes). The modules beside them are what the rooms share, and
`prepare`, which experiments import.

Importing this package loads no TensorFlow. TFDS and SeqIO make the records of the built-in text data sets and
are imported only then; loading records and training on them needs neither.
"""

from jaxpref.data.loader import Loader as Loader
from jaxpref.data.records import Example as Example
from jaxpref.data.records import Records as Records
from jaxpref.data.records import concatenate as concatenate
from jaxpref.data.records_io import add_column as add_column
from jaxpref.data.records_io import load_records as load_records
from jaxpref.data.records_io import write_records as write_records
from jaxpref.data.segments import SegmentRecords as SegmentRecords
from jaxpref.data.text.boundary import Drop as Drop
from jaxpref.data.text.boundary import encode_example as encode_example
from jaxpref.data.text.dialogue import chatml_template as chatml_template
from jaxpref.data.text.dialogue import conversation_ids as conversation_ids
from jaxpref.data.text.dialogue import hh_template as hh_template
from jaxpref.data.text.dialogue import reply_end as reply_end
from jaxpref.data.text.dialogue import turn_template as turn_template
from jaxpref.data.text.templates.hub import hf_template as hf_template
from jaxpref.data.text.tokenizers import Tokenizer as Tokenizer
from jaxpref.data.text.tokenizers import bytes_tokenizer as bytes_tokenizer
from jaxpref.data.text.tokenizers import characters_tokenizer as characters_tokenizer
from jaxpref.data.text.tokenizers import gguf_tokenizer as gguf_tokenizer
from jaxpref.data.text.tokenizers import hf_tokenizer as hf_tokenizer
from jaxpref.data.text.tokenizers import llama2c_tokenizer as llama2c_tokenizer
from jaxpref.data.text.tokenizers import sentencepiece_tokenizer as sentencepiece_tokenizer
from jaxpref.data.text.tokenizers import train_sentencepiece as train_sentencepiece
