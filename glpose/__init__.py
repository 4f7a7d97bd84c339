"""GLPose: 2D human poses in video from a frame's own, its neighbours' and its most similar people's features."""
