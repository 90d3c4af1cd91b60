"""The whole journey, from images to verdicts on MQTT, as one command with a report."""
