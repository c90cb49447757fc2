"""Asynchronous model-based reinforcement learning of robot arms on the live ROS 2 graph."""
