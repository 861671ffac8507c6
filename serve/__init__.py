"""The HTTP face: FastAPI on Ray Serve. Replicas hold no run state; they ask the controller."""
