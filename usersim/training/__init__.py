"""Fine-tuning of a User LM."""
