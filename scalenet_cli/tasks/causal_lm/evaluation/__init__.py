"""Perplexity, answers, multiple choice and tasks of lm-eval."""
