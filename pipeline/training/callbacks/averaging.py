"""An exponential moving average of the weights."""

from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA(WeightAveraging):
    """Keep an exponential moving average of the weights, for validations and in a checkpoint's `state_dict`.

    Lightning's `EMAWeightAveraging` does the same one parameter at a time; this averages all of them in one
    call. The average starts from the weights after the first step; when training ends, it becomes
    the weights of the model.

    Args:
        decay: the weight of the old average at each optimizer step, in [0, 1).

    Source: Polyak and Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging"; the exponential
    form is that of Tarvainen and Valpola 2017, "Mean teachers are better role models", section 2.
    """

    def __init__(self, decay: float) -> None:
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        super().__init__(use_buffers=False, multi_avg_fn=average)
