"""Cleaning of chats, one batch at a time."""
