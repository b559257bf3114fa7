"""Drawing responses: one decode loop over anything that gives next-token logits, and over mixtures of it."""

from jaxpref.sampling.compiled import check_sampling as check_sampling
from jaxpref.sampling.compiled import sampler as sampler
from jaxpref.sampling.decoding import Decoder as Decoder
from jaxpref.sampling.decoding import decode as decode
from jaxpref.sampling.draws import drawn_index as drawn_index
from jaxpref.sampling.draws import mixed_logits as mixed_logits
from jaxpref.sampling.draws import truncated_logits as truncated_logits
from jaxpref.sampling.ends import EndIds as EndIds
from jaxpref.sampling.ends import end_ids as end_ids
from jaxpref.sampling.ends import is_end as is_end
from jaxpref.sampling.streaming import Arrived as Arrived
from jaxpref.sampling.streaming import streamer as streamer
