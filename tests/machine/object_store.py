"""An S3 store of this machine, in memory (moto), and the environment in which everything talks to it."""

import logging
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "scans"


@contextmanager
def object_store(mirrors: Path) -> Iterator[str]:
    """s3://BUCKET of a server on a free port; mirrors lie in a folder of the test."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    known = {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "FABRICA_STORES": str(mirrors),
    }  # fmt: skip
    with patch.dict(os.environ, known):
        urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"").close()  # one memory for all servers
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        try:
            yield f"s3://{BUCKET}"
        finally:
            server.stop()


def keys() -> dict[str, bytes]:
    """Every object of the bucket."""
    client = boto3.client("s3")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    names = [one["Key"] for page in pages for one in page.get("Contents", [])]
    return {name: client.get_object(Bucket=BUCKET, Key=name)["Body"].read() for name in names}


def put(name: str, content: bytes) -> None:
    boto3.client("s3").put_object(Bucket=BUCKET, Key=name, Body=content)
