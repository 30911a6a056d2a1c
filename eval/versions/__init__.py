"""A User LM beside the version before it, on held-out people: `usersim eval versions`."""
