"""Measures what is served under load, and reckons from it what a load needs.

`mmdeploy.performance.bench` asks a server at given concurrencies and rates with the load generator
(`mmdeploy.performance.generator`). `mmdeploy.performance.capacity` plans replicas from service times
(`mmdeploy.performance.service_measure`) with a simulation of queues (`mmdeploy.performance.queueing`).
"""
