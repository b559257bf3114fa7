"""Judges and scorers: which of `k` responses to a prompt is better."""

from jaxpref.judges.base import Judge as Judge
from jaxpref.judges.base import Policies as Policies
from jaxpref.judges.base import Scorer as Scorer
from jaxpref.judges.language import follow_up_likelihood as follow_up_likelihood
from jaxpref.judges.language import implicit_preference as implicit_preference
from jaxpref.judges.learned import general_preference_judge as general_preference_judge
from jaxpref.judges.learned import pair_judge as pair_judge
from jaxpref.judges.learned import reward_judge as reward_judge
from jaxpref.judges.pointwise import bradley_terry_judge as bradley_terry_judge
from jaxpref.judges.pointwise import matrix_judge as matrix_judge
from jaxpref.judges.pointwise import ordering_judge as ordering_judge
from jaxpref.judges.pointwise import rule_judge as rule_judge
from jaxpref.judges.scorers import density_ratio as density_ratio
from jaxpref.judges.scorers import implicit_reward as implicit_reward
from jaxpref.judges.scorers import reward_scorer as reward_scorer
from jaxpref.judges.scorers import rule_scorer as rule_scorer
from jaxpref.judges.text import rows_on_host as rows_on_host
from jaxpref.judges.text import text_scorer as text_scorer
