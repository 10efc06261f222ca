"""Images in memory, before any network: sources, preprocessing, symmetries."""
