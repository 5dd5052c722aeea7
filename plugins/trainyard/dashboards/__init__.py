"""The Grafana dashboards as typed records, and the JSON that Grafana reads made from them.

``make dashboards`` writes containers/grafana/dashboards/*.json; a test compares them. Built with
Grafana's own SDK, which is a development dependency: nothing at run time imports this package.
"""
