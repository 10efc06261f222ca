"""Gram matrices that outlive a process."""
