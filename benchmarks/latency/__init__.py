"""What K members cost beside the plain model, and where the time goes."""
