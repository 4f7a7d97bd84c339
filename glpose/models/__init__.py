"""The networks: HRNet (features, single-frame heatmaps), the person detector, GLPose, and their checkpoints."""
