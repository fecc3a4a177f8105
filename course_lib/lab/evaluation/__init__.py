"""Evaluation: how good samples are, how they are drawn, and what that costs."""
