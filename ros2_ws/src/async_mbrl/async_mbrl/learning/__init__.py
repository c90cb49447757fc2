"""torch: buffers, dynamics ensemble, imagined rollouts, policies, algorithms, the two learners."""
