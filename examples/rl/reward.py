"""The rewards of a server, for OpenRLHF (`reward_func`) and for TRL (`reward`)."""

from codescaler import RewardFunction
from codescaler.integrations.openrlhf import make_reward_func

URL = "http://127.0.0.1:8000"

reward_func = make_reward_func(URL, problem_in_label=True)
reward = RewardFunction.open(URL)
