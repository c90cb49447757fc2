"""Comparisons that take hours: queues of runs that can be interrupted and gone on with."""
