"""Interaction awareness: does a model react to an answer when it continues under the user's role?"""
