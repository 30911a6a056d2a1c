"""The six intrinsic metrics of the UserLM paper (Naous et al., arXiv 2510.06552, §4), with what reads them fairly."""
