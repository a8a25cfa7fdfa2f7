"""Black-box load tests of a running service: scenarios, poison, peers, reports.

Imports nothing else of this repository and speaks HTTP only, so that it measures what a client sees.
Locust patches the whole interpreter with gevent: it runs in a process of its own, and importing this package
patches nothing.
"""
