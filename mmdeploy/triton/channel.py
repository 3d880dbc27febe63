"""How every gRPC channel to a Triton is opened: what tells it apart from what gRPC does by itself."""

#: Any size of message, a connection of its own, no proxy of the environment, and no request sent twice.
CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
)
