"""An edition that is wrong."""

from mtl_accum import SummedLoss, backward_scale


class Odd:
    """Twice the gradient."""

    def forward_backward(self, trunk, tasks, batch):
        with backward_scale(2.0):
            return SummedLoss().forward_backward(trunk, tasks, batch)
