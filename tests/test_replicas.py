"""nn.DataParallel: replicas in threads, put together into what one process captures."""

import threading

import pytest
import torch
from tiny import Mlp, Rows, arguments

from hf_diversity import DiversityConfig, DiversityTrainer
from hf_diversity.capture import ActivationCapture
from hf_diversity.layers import find_layers
from hf_diversity.replicas import merge_replicas


class OnDevice(torch.Tensor):
    """A CPU tensor that says it lies on a GPU, for machines without several."""

    @staticmethod
    def make(value, number):
        tensor = value.as_subclass(OnDevice)
        tensor.number = number
        return tensor

    @property
    def device(self):
        return torch.device("cuda", self.number)

    def to(self, device):
        return self.as_subclass(torch.Tensor)


def test_parts_follow_the_devices_and_uses_follow_their_order():
    parts = {(device, use): torch.full((2, 3), 10.0 * device + use) for device in (0, 1, 2) for use in (0, 1)}
    arrival = [(2, 0), (0, 0), (2, 1), (1, 0), (1, 1), (0, 1)]  # threads
    merged = merge_replicas([OnDevice.make(parts[key], key[0]) for key in arrival])
    assert len(merged) == 2
    for use, tensor in enumerate(merged):
        assert torch.equal(tensor, torch.cat([parts[device, use] for device in (0, 1, 2)]))


def test_one_device_is_left_alone():
    tensors = [torch.randn(2, 3), torch.randn(4, 3)]
    merged = merge_replicas(tensors)
    assert all(a is b for a, b in zip(merged, tensors, strict=True))


def test_replicas_that_ran_differently_often_are_refused():
    parts = [OnDevice.make(torch.zeros(1, 2), number) for number in (0, 0, 1)]
    with pytest.raises(RuntimeError, match=r"ran the layer 2, 1 times.*accelerate launch"):
        merge_replicas(parts)


def test_hooks_fire_in_replicas_and_threads():
    """How nn.DataParallel copies a module, without its GPUs: the copies share the hooks."""
    model = Mlp()
    capture = ActivationCapture(find_layers(model, ["act2"]), model)
    inputs = torch.randn(8, 6)
    with capture.armed() as store:
        replicas = []
        for _ in range(2):
            replica = model._replicate_for_data_parallel()
            replica._modules = {n: m._replicate_for_data_parallel() for n, m in model._modules.items()}
            for name, child in model._modules.items():
                replica._modules[name]._parameters = child._parameters
            replicas.append(replica)
        threads = [
            threading.Thread(target=replica, args=(part,))
            for replica, part in zip(replicas, inputs.split(4), strict=True)
        ]
        for thread in threads:
            thread.start()
            thread.join()
    captured = capture.take(store, training=True)["act2"]
    hidden = model.act2(model.fc2(torch.tanh(model.fc1(inputs))))
    assert torch.allclose(torch.cat(captured), hidden)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs 2 GPUs")
def test_two_gpus_in_one_process_are_one(tmp_path):
    losses = []
    for gpus in (1, 2):
        settings = arguments(tmp_path, use_cpu=False, per_device_train_batch_size=8 // gpus)
        settings._n_gpu = gpus
        model = Mlp()
        trainer = DiversityTrainer(
            model=model, args=settings, train_dataset=Rows(), diversity=DiversityConfig(diversity_weight=1.0)
        )
        trainer.train()
        losses.append([r["diversity"] for r in trainer.state.log_history if "diversity" in r])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
