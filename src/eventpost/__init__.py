"""Eventpost: the durable event dispatcher for Optimizely Feature Experimentation."""
