"""Networks that are learned without labels: anchor points layer by layer."""
