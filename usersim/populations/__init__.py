"""Populations of users: a joint distribution of persona, style and patience, fitted to the people of chat logs."""
