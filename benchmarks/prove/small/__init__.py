"""Small machines: one core, one gigabyte, aarch64."""
