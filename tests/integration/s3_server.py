"""An S3 server on loopback, with what a client finds it by."""

import contextlib
from collections.abc import Iterator

import pytest

SECRET = "wJalrXUtnFEMIbPxRfiCYEXAMPLEKEY"


@contextlib.contextmanager
def s3_server(bucket: str) -> Iterator[tuple[dict[str, str], object]]:
    """Start moto's server with a bucket; give the environment of its clients, and the server."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        environment = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "ada",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            boto3.client("s3").create_bucket(Bucket=bucket)
        yield environment, server
    finally:
        server.stop()
