"""Transitions that were collected before: kept in folders, imported, checked, learned from."""
