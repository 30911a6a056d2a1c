"""Outcome validity: do assistants come out under simulated users as they do under people?"""
