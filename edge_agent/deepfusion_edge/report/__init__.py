"""What the agent tells the outside: payloads and MQTT."""
