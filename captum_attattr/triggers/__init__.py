"""Adversarial triggers: words that a prediction rests on, found in one text and put into others."""
