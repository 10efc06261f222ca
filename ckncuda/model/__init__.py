"""A whole model: encoders and a classifier, described, fitted, stored."""
