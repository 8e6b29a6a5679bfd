"""What answers `/train/`."""
