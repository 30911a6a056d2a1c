"""Conversations and profiles as token ids and text."""
