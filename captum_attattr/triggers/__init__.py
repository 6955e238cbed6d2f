"""Adversarial triggers: words that a prediction rests on, found in one text and put into others."""

from captum_attattr.text.accuracy import Accuracy
from captum_attattr.triggers.attacks import AttackResult, attack
from captum_attattr.triggers.extraction import extract_triggers
from captum_attattr.triggers.patterns import Trigger, apply_trigger, load_triggers, save_triggers

__all__ = [
    "Accuracy",
    "AttackResult",
    "Trigger",
    "apply_trigger",
    "attack",
    "extract_triggers",
    "load_triggers",
    "save_triggers",
]
