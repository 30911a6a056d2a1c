"""Comparison of a User LM with its previous version on held-out people: `usersim eval versions`."""
