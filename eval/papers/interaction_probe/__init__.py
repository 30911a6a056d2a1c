"""Interaction awareness: the reaction of a model to an answer when it continues under the user's role."""
