"""Which responses make a pair, and which prompts and pairs are worth a label.

A row is a prompt of the batch (axis `b`) with its responses and columns.
"""

from jaxpref.selection.acquisition import active_preferences as active_preferences
from jaxpref.selection.acquisition import bald as bald
from jaxpref.selection.acquisition import balpm as balpm
from jaxpref.selection.acquisition import margins as margins
from jaxpref.selection.acquisition import neighbour_distances as neighbour_distances
from jaxpref.selection.acquisition import predictive_entropy as predictive_entropy
from jaxpref.selection.acquisition import top_rows as top_rows
from jaxpref.selection.directions import best_along as best_along
from jaxpref.selection.directions import direction_text as direction_text
from jaxpref.selection.directions import directions_near as directions_near
from jaxpref.selection.duels import colstim as colstim
from jaxpref.selection.duels import fit_duels as fit_duels
from jaxpref.selection.duels import thompson_duel as thompson_duel
from jaxpref.selection.duels import ucb_duel as ucb_duel
from jaxpref.selection.gather import append_responses as append_responses
from jaxpref.selection.gather import drop_rows as drop_rows
from jaxpref.selection.gather import same_responses as same_responses
from jaxpref.selection.gather import take_responses as take_responses
from jaxpref.selection.gather import take_rows as take_rows
from jaxpref.selection.pairs import best_of as best_of
from jaxpref.selection.pairs import divpo as divpo
from jaxpref.selection.pairs import max_min as max_min
from jaxpref.selection.pairs import max_min_rated as max_min_rated
from jaxpref.selection.pairs import max_random as max_random
from jaxpref.selection.pairs import max_target as max_target
from jaxpref.selection.pairs import random_pair as random_pair
from jaxpref.selection.pairs import ranked_pairs as ranked_pairs
from jaxpref.selection.pairs import soft_pair as soft_pair
from jaxpref.selection.pairs import two_samples as two_samples
from jaxpref.selection.pairs import two_samples_drawn as two_samples_drawn
from jaxpref.selection.prompts import affixed as affixed
from jaxpref.selection.prompts import contrastive_pair as contrastive_pair
from jaxpref.selection.replay import Replay as Replay
from jaxpref.selection.replay import draw as draw
from jaxpref.selection.replay import empty_replay as empty_replay
from jaxpref.selection.replay import push as push
from jaxpref.selection.routing import Routing as Routing
from jaxpref.selection.routing import fit_routing as fit_routing
from jaxpref.selection.routing import route as route
from jaxpref.selection.routing import routing_gains as routing_gains
from jaxpref.selection.rows import hybrid as hybrid
from jaxpref.selection.rows import margin_between as margin_between
from jaxpref.selection.rows import margin_fraction as margin_fraction
from jaxpref.selection.rows import offline_and_self as offline_and_self
from jaxpref.selection.rows import refined_vs_original as refined_vs_original
from jaxpref.selection.rows import step_siblings as step_siblings
from jaxpref.selection.rows import versus as versus
