"""Times requests on real processes, and predicts latency."""
