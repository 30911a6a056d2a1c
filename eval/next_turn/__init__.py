"""Teacher-forced evaluation: a simulator's next turn at prefixes of real conversations, beside the person's own."""
