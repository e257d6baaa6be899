"""What people write by hand: the profile, one module for each section."""
