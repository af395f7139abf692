"""Weights, gradients and the optimizer's state cut up among the processes (FSDP), so that each holds a share.

Tasks know nothing of it. Lightning is given a strategy; `Sharding` cuts the model up when its turn comes, and puts it
together wherever it must be whole.
"""

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from .callbacks import AveragedWeights


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for `fully_shard`: a share for each process, one file for a checkpoint."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Joins the processes, of all nodes, to one group."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


class ShardedAverage(AveragedWeights):
    """Averaged weights that are cut up as the weights are, and whole in a checkpoint."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swaps back, once both are cut up again."""
        cut(pl_module)
        super().on_validation_epoch_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Puts the average together; all processes take part."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint["state_dict"] = gathered(checkpoint["state_dict"])

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Cuts up the current weights; the average is in the module already, where the strategy read it to."""
        average = pl_module.state_dict()
        current = {
            name: distribute_tensor(tensor, average[name].device_mesh, average[name].placements)
            if isinstance(average[name], DTensor)
            else tensor
            for name, tensor in checkpoint["current_model_state"].items()
        }
        states = {"state_dict": average, "current_model_state": current}
        super().on_load_checkpoint(trainer, pl_module, {**checkpoint, **states})


class Sharding(Callback):
    """Cuts up ``task.model``, and the average of it, when training is set up.

    In validation each process holds the whole weights, since processes may have different numbers of pictures, and
    one of them may ask the model something by itself.

    Args:
        average: The averaged weights, where there are any; its turn comes before this callback's.
    """

    def __init__(self, average: AveragedWeights | None) -> None:
        self.average = average
        self.copy: nn.Module | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lays a whole copy aside, and has Lightning cut up the model once it knows the device."""
        models = [pl_module.get_submodule("model")]
        if self.average:
            models.append(self.average.averaged(pl_module).get_submodule("model"))
        if trainer.is_global_zero:
            self.copy = copy.deepcopy(models[0]).cpu()
        mesh = cast(ShardedStrategy, trainer.strategy).device_mesh["data_parallel"]

        def configure_model() -> None:
            for model in models:
                for part in (*blocks(model), model):
                    fully_shard(part, mesh=mesh)

        pl_module.configure_model = configure_model

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the weights together, in every process."""
        for part in _cut_up(pl_module):
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cuts them up again."""
        cut(pl_module)

    def whole(self, module: LightningModule) -> LightningModule | nn.Module:
        """The model with the weights of a task that is cut up, in the first process; all take part."""
        tensors = gathered(module.get_submodule("model").state_dict())
        if self.copy is None:
            return module
        self.copy.load_state_dict(tensors)
        return self.copy


def blocks(model: nn.Module) -> list[nn.Module]:
    """The parts that are whole one at a time: of layers that stand in lists, the innermost with layers of their own.

    In a backbone of timm these are its blocks. What is in none of them is whole as long as the model computes.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList | nn.Sequential)]
    layers = {
        layer: None
        for each in lists
        for layer in each
        if any(layer.children()) and not isinstance(layer, nn.ModuleList | nn.Sequential)
    }
    return [
        layer for layer in layers if not any(part in layers for part in layer.modules() if part is not layer)
    ]


def cut(module: nn.Module) -> None:
    """Leave each process its share alone, between two uses of the model; without effect where it is so."""
    for part in _cut_up(module):
        part.set_reshard_after_forward(True, recurse=False)
        part.reshard()


@torch.no_grad()
def gathered(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors put together from their shares, on the CPU. All processes take part, and all have them then."""
    return {name: t.full_tensor().cpu() if isinstance(t, DTensor) else t for name, t in tensors.items()}


def _cut_up(module: nn.Module) -> list[FSDPModule]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]
