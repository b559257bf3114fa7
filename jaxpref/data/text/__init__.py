"""Prompts and responses: text to tokens, and the records that are made of them."""
