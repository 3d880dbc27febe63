"""A name with several addresses is several servers: requests go to all of them, and past one that is gone."""

import asyncio
import contextlib
from collections import Counter

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from mmdeploy.gateway.problems import Refused
from mmdeploy.gateway.upstream import Upstream


class Pod(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A server that says which one it is."""

    def __init__(self, number: int) -> None:
        self.number = number

    async def ModelInfer(self, request, context):  # noqa: N802 - as the protocol has it
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name="pod", datatype="INT32", shape=[1])
        response.raw_output_contents.append(np.array([self.number], np.int32).tobytes())
        return response


async def _pod(number: int) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Pod(number), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


async def _asked(upstream: Upstream, times: int) -> Counter:
    answers = [await upstream.infer("m", {"x": np.zeros(1, np.float32)}) for _ in range(times)]
    return Counter(int(answer["pod"][0]) for answer in answers)


def test_every_address_of_a_name_is_asked_and_one_that_is_gone_is_passed_over() -> None:
    async def run() -> tuple[Counter, Counter]:
        (first, one), (second, other) = await _pod(1), await _pod(2)
        upstream = Upstream(f"ipv4:127.0.0.1:{one},127.0.0.1:{other}", timeout_s=30)
        try:
            await _asked(upstream, 1)  # connections to both are made meanwhile
            for _ in range(1200):
                if len(await _asked(upstream, 4)) == 2:
                    break
                await asyncio.sleep(0.05)
            both = await _asked(upstream, 20)
            await first.stop(None)
            for _ in range(1200):
                with contextlib.suppress(Refused):  # a request may be on its way while the connection ends
                    if await _asked(upstream, 4) == {2: 4}:
                        break
                await asyncio.sleep(0.05)
            return both, await _asked(upstream, 10)
        finally:
            await upstream.close()
            await first.stop(None)
            await second.stop(None)

    both, left = asyncio.run(run())
    assert both == {1: 10, 2: 10}
    assert left == {2: 10}
