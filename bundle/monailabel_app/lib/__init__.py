"""The parts of the MONAI Label app."""
