"""How Triton keeps the state of a component between the requests of a sequence: ``sequence_batching`` (config.pbtxt).

Implicit state management (Triton: docs/user_guide/architecture.md): the state is an output that becomes an input of the
next request of the sequence, and zeros in the first. Sequences are batched by the strategy ``oldest``, which asks the
model for no control inputs and makes no empty rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmdeploy.triton.recurrent_state import State


@dataclass(frozen=True)
class KeptState:
    """What is kept, and for how long.

    Attributes:
        states: Of the graph, in the order of its layers.
        max_idle_us: A sequence that nothing was sent of for so long is forgotten.
        max_sequences: Open sequences of one instance.
    """

    states: tuple[State, ...]
    max_idle_us: int
    max_sequences: int

    def write(self, config: Any) -> None:
        """Write it into a ``ModelConfig``."""
        from tritonclient.grpc.model_config_pb2 import DataType

        batching = config.sequence_batching
        batching.max_sequence_idle_microseconds = self.max_idle_us
        batching.oldest.max_candidate_sequences = self.max_sequences
        for state in self.states:
            kind = DataType.Value(f"TYPE_{state.dtype}")
            kept = batching.state.add(input_name=state.input, output_name=state.output, data_type=kind)
            kept.dims.append(state.size)
            first = kept.initial_state.add(name="zeros", data_type=kind, zero_data=True)
            first.dims.append(state.size)
