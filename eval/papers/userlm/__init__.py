"""The six intrinsic metrics of the UserLM paper (Naous et al., arXiv 2510.06552, §4), beside their human values and
baselines."""
