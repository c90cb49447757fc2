"""Composing the configuration of a run, describing its nodes, starting and ending them."""
