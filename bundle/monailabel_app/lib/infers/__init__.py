"""What answers `/infer/`."""
