"""Starts open_clip's own trainer as a module, and registers a model that a file describes.

`python -m winnow.stages.encoders.trainer CONFIG.json [until-stdin-ends] -- --model=STEM …`, with "-" for a model that
open_clip knows by name. open_clip_train writes checkpoints, a log and its parameters under --logs/--name.
"""

import functools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from winnow.pipeline.lifeline import WATCHED, end_group, end_with_starter

if TYPE_CHECKING:
    import torch

BY_NAME = "-"
"""Used as the path of the configuration if the model is one of open_clip's own."""


def main(arguments: Sequence[str]) -> int:
    """Train. arguments: a model configuration or "-", perhaps WATCHED, "--", then the options of open_clip_train."""
    mark = arguments.index("--")  # without it torchrun takes --logs for one of its own options
    config, options = arguments[0], arguments[mark + 1 :]
    if WATCHED in arguments[:mark]:
        end_with_starter(end_group)
    import open_clip  # both after the watch begins: imports take seconds, in which nothing would end this process
    import torch

    if config != BY_NAME:
        open_clip.add_model_config(config)
    if "--device=cpu" in options:
        # open_clip passes a device for each process, and torch refuses that for the CPU
        parallel = torch.nn.parallel.DistributedDataParallel
        torch.nn.parallel.DistributedDataParallel = functools.partial(_without_device, parallel)  # type: ignore[misc, assignment]  # for the trainer's own call
    from open_clip_train.main import main as train  # after the models are known

    code = train(options)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # else gloo warns when the process ends
    return int(code or 0)


def _without_device(
    parallel: "type[torch.nn.parallel.DistributedDataParallel]",
    model: "torch.nn.Module",
    device_ids: "Sequence[torch.device]",
) -> "torch.nn.Module":
    del device_ids
    return parallel(model)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
