"""Real monitoring for tests: Prometheus, Alertmanager, Grafana's panels, and services to look at."""
