"""Load tests and benchmarks of a running service, over HTTP only.

Importing this package does not start gevent. Locust patches the interpreter, so it runs in a process of its own.
"""
