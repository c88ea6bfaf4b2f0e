"""Use cases: each function is a sentence that an operator could say."""
