"""A Docker socket proxy that understands what it lets through.

A proxy that filters paths has to permit ``POST /containers/create``, and with it ``Privileged``
and a bind of ``/``: root on the host. This one reads the body, refuses by default what it does not
know, and sends the engine a request made anew from what it understood, never the client's bytes.
It needs aiohttp and no Airflow. See docs/security.md.
"""
