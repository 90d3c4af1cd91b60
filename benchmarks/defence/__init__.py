"""The defence on held-out images, against surrogates and attacks that hardening never saw."""
