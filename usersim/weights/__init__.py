"""Model weights: base models, the default User LM, and the precision of its products."""
