"""Collecting data on the robot: episodes, transitions, the journal, recording and summary."""
