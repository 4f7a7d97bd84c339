"""Evaluation of predicted poses against annotations: `posetrack` (AP, as poseval computes it) and `pck`."""
