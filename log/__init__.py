"""What a run says: lines, numbers, curves."""
