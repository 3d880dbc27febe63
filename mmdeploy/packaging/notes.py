"""What whoever runs a package must know and do, as sentences."""

from __future__ import annotations

from mmdeploy.packaging.containers import Container
from mmdeploy.packaging.gateway import keys_name
from mmdeploy.packaging.kubernetes import QUEUE_METRIC, queue_target_ms
from mmdeploy.packaging.pod import secret_name
from mmdeploy.packaging.server_options import NO_SHARED_MEMORY, knows
from mmdeploy.packaging.settings import PackageSettings
from mmdeploy.packaging.subject import Subject


def notes(subject: Subject, container: Container, settings: PackageSettings) -> tuple[str, ...]:
    """Return the sentences."""
    told = []
    if settings.digest is None:
        told.append(f"{container.image} is named by its tag, which can be moved: pin it with --digest")
    if not knows(NO_SHARED_MEMORY, container.triton):
        told.append(f"{container.image} cannot switch off the shared memory of clients: it is shut by the control key")
    if subject.peak_bytes is None:
        told.append(
            f"memory was not measured, {subject.memory_request_mib} MiB are a guess: add a memory gate to the recipe"
        )
    if settings.sizing is not None and settings.min_replicas < settings.sizing.replicas:
        told.append(
            f"--min-replicas {settings.min_replicas} is less than the {settings.sizing.replicas} of the plan: until "
            "the autoscaler has added pods, the planned load is not answered in time"
        )
    if subject.latency_ms is None:
        told.append(f"latency was not measured, a queue of {queue_target_ms(subject):g} ms to scale at is a guess")
    if not subject.has_sample:
        told.append("the release holds no sample: probes ask Triton whether it is ready, which it says of dead models")
    if subject.stream:
        told.append(
            "a sequence lives in one pod: clients keep one connection for it, and begin again where it breaks; the "
            "autoscaler ends pods with what they remember"
        )
    if subject.probe_cached:
        told.append("the whole ensemble's probe can be answered from the response cache, which hides a dead step")
    if not subject.signed:
        told.append("the release is not signed: its manifest says that nothing changed, not who made it")
    if settings.model_control == "explicit":
        told.append(
            "who has the control key can run code in the server: make one (openssl rand -hex 32 > control.key, beside "
            f"the folder; kubectl create secret generic {secret_name(subject)} --from-file=key=control.key), and keep "
            "it to yourself"
        )
    if settings.gateway:
        told.append(
            "the gateway wants keys, in MMDEPLOY_GATEWAY_KEYS of who starts compose, or in a cluster: kubectl create "
            f"secret generic {keys_name(subject)} --from-literal='MMDEPLOY_GATEWAY_KEYS=NAME KEY'; and a folder wheels "
            "beside this one, with the wheel of multimodal-deploy where no index has it"
        )
    told.append(f"the autoscaler needs Prometheus' adapter with kubernetes/prometheus-adapter.yaml: {QUEUE_METRIC}")
    return tuple(told)
