"""Studies of models: searches, distances, speed, a baseline, a demo."""
