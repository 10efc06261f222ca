"""What one finds out with models: searches, distances, speed, a baseline, a demo."""
