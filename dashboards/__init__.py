"""What people look at: Grafana dashboards as code, Prometheus rules and the runbooks of the alerts.

``python -m dashboards.build`` writes the JSON that is imported into Grafana and the Kubernetes
manifest that carries the rules; ``python -m dashboards.build --check`` says whether what is
committed is what the code builds. Building needs ``grafana-foundation-sdk==0.0.21``; using the
files, and setting where the alerts link to (``--runbooks``, ``--grafana``), needs nothing.

Decision: where ``run_id`` comes from. Our series carry no ``run_id`` label: it would be one more
label on every series for something that is constant in a process. One metric,
``timers_run_info{run_id, host} 1``, says which run a service is for, and a query that cares about
runs selects with ``and on (job, instance) timers_run_info{run_id=~"$run_id"}``. ``and`` never
multiplies series, so it cannot fail with "many-to-many" when two runs share an address one after
the other. Alerts do not join at all (an alert must not vanish because a label could not be looked
up): they look the run up when the annotation is written.

Decision: panels compute from the service's own series, not from recorded ones, so that importing a
dashboard is enough to see something, and so that ``$__rate_interval`` follows the zoom. What is
also computed by an alert, or over weeks, is recorded (``timers-recording.yml``); the last row of
the fleet dashboard shows the recorded series.

Decision: how panels stay quick over thousands of hosts. What is dear is the ``and`` with the run,
which copies each sample of each step. So a run's dashboard names the hosts of the run in every
selector: its variable for hosts depends on that of runs, and *All* is all of their names. The
fleet's drops what did not happen before it joins, adds the zeros that must be seen where few series
are left, and asks for some 200 moments (Grafana rounds the step), however wide the time range.
"""

import contextlib
import warnings

with warnings.catch_warnings():
    # The SDK would rather have the schema that only the newest Grafana can import; ours is the one
    # that all of them can. It says so whenever one of its modules with both is first imported.
    warnings.simplefilter("ignore", DeprecationWarning)
    with contextlib.suppress(ModuleNotFoundError):
        from grafana_foundation_sdk.builders import dashboard, loki, prometheus, timeseries

        del dashboard, loki, prometheus, timeseries
