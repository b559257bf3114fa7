"""Chat templates: those that models come with, and how conversations become texts by them."""
