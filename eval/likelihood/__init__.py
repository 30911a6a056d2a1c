"""`usersim eval model`: what a User LM whose weights we hold knows about people, in five tables."""
