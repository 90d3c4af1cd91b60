"""A year in an hour: outages, updates and bad bundles on a calendar, every decision counted."""
