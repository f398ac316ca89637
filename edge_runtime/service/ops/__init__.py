"""For whoever runs the service: settings, signals, systemd, logs, metrics, status page."""
