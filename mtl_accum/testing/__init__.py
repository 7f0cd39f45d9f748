"""Networks, situations, assertions and a fork server that tests and studies share; nothing else imports them."""

from mtl_accum.testing._asserts import BOUNDS, StepResult, assert_bit_equal, assert_same_gradient, run_edition
from mtl_accum.testing._fork_server import ForkServer, inherited_fork_server
from mtl_accum.testing._matrix import MATRIX, refusal
from mtl_accum.testing._networks import (
    MODES,
    NETWORKS,
    OPTIMIZERS,
    Network,
    basic_editions,
    convolutional,
    many_heads,
    transformer,
)
from mtl_accum.testing._precision import flat_gradient, float64_gradient, under_autocast, wide_weights
from mtl_accum.testing._profiled import profiler_peak
from mtl_accum.testing._shapes import SHAPES, build_shape
from mtl_accum.testing._workloads import SAMPLES, Head, Workload, images, nested, vector
from mtl_accum.testing.situations import SITUATIONS, Situation

__all__ = [
    "BOUNDS",
    "MATRIX",
    "MODES",
    "NETWORKS",
    "OPTIMIZERS",
    "SAMPLES",
    "SHAPES",
    "SITUATIONS",
    "ForkServer",
    "Head",
    "Network",
    "Situation",
    "StepResult",
    "Workload",
    "assert_bit_equal",
    "assert_same_gradient",
    "basic_editions",
    "build_shape",
    "convolutional",
    "flat_gradient",
    "float64_gradient",
    "images",
    "inherited_fork_server",
    "many_heads",
    "nested",
    "profiler_peak",
    "refusal",
    "run_edition",
    "transformer",
    "under_autocast",
    "vector",
    "wide_weights",
]
