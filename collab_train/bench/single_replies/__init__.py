"""Tests of single replies: refusals, and clarifying questions."""
