"""numpy: the real-time loop, policy inference, limits, watchdogs, what may move and when."""
