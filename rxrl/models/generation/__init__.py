"""Answers token by token: sampling, decoding with a cache, sessions and completion."""
