"""Faults on the live graph: what is injected, what must hold, and what was measured.

``make faults`` runs the suite of this package; ``pytest`` runs the few short cases in test_*.py.
"""
