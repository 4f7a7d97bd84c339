"""GLPose: 2D human poses in video from a frame's own, its neighbours' and its most similar people's features."""

from __future__ import annotations

import os

# Set before torch is loaded: idle OpenMP threads then sleep instead of spinning, 3.5-4.5 times faster on shared cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
