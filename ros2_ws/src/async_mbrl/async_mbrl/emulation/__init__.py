"""Whole runs in one process on an emulated clock: no ROS, and the same numbers each time."""
