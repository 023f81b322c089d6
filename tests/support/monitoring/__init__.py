"""Real monitoring for tests: Prometheus, Alertmanager, Grafana's panels, services to look at."""
