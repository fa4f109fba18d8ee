"""`codescaler serve` on a Ray cluster: serve run examples.ray.serve_app:application

Clients that send `x-session-id`, as codescaler's does, reach the replica that has computed their problem. A replica is
one server with its own model. Ray Serve starts and stops replicas with the load. Leave Ray's own authentication as it
is: by default Ray 2.60 asks for a token.
"""

from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

MODEL = None  # a folder that every node sees, or an id of the hub; None is nano
ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"


def build_app():
    """Makes the server's application in a replica. Without CODESCALER_API_KEY it answers to this machine's names."""
    from codescaler.engine import Engine
    from codescaler.env import read_api_key
    from codescaler.serve.app import make_app
    from codescaler.serve.guard import Guard, list_hosts
    from codescaler.serve.models import ServedModel

    key = read_api_key()
    guard = Guard(list_hosts("127.0.0.1")) if key is None else Guard(None, [key])
    return make_app([ServedModel(Engine.from_pretrained(MODEL), (MODEL or "nano",))], guard)


@serve.deployment(
    ray_actor_options={"num_cpus": 1},
    max_ongoing_requests=1024,  # a replica puts these into shared forwards
    autoscaling_config=AutoscalingConfig(min_replicas=1, max_replicas=8, target_ongoing_requests=256),
    request_router_config=RequestRouterConfig(request_router_class=ROUTER),
    graceful_shutdown_timeout_s=180,
)
@serve.ingress(build_app)
class Codescaler:
    """A replica."""


application = Codescaler.bind()
