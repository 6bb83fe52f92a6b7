"""training.py: seeds, resume to the bit, stops on a non-finite loss, refuses another run's checkpoint."""

import json

import pytest
import torch

import advit.training as training
from advit.checkpoint import load_checkpoint
from advit.config import ADViTConfig, with_options
from advit.errors import CheckpointError, TrainingError
from advit.networks import build_network
from advit.training import CHECKPOINT, batch_order, fit, learning_rate, total_steps

SMALL = with_options(
    ADViTConfig(),
    dict(image_size=32, patch=8, dim=24, depth=1, heads=3, mlp_dim=32, bottleneck=16, components=2, epochs=4,
         density_context="others", density_target="pixels", target_dim=6, density_hidden=8, minimax_lambda=0.1,
         batch_size=3, learning_rate=1e-3, schedule="cosine", gradient_clip=1.0, shift=2, brightness=0.1),
)  # fmt: skip
IMAGES = (torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
NAMES = [f"{i}.png" for i in range(7)]
CPU = torch.device("cpu")


def load(indices):
    return IMAGES[indices]


def train(run, config=SMALL, seed=0, resume=False, load=load):
    network = build_network(config, seed)
    network.target.fit([IMAGES.float() / 255])
    identity = {"config": config.to_dict(), "seed": seed}
    fit(network, load, NAMES, seed=seed, device=CPU, run=run, identity=identity, resume=resume, progress=False)
    return network


def weights(network):
    return torch.cat([v.flatten().double() for v in network.state_dict().values()])


def test_same_seed_same_weights_and_losses(tmp_path):
    one, two, other = (train(tmp_path / str(i), seed=s) for i, s in enumerate((0, 0, 1)))
    assert torch.equal(weights(one), weights(two))
    assert not torch.equal(weights(one), weights(other))
    logs = [(tmp_path / str(i) / "log.jsonl").read_bytes() for i in range(2)]
    assert logs[0] == logs[1]
    lines = [json.loads(line) for line in logs[0].splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert set(lines[0]) == {"epoch", "step", "learning_rate", "total", "mse", "ssim", "discrepancy", "density"}


def test_a_killed_run_resumes_to_the_same_weights(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole")
    monkeypatch.setattr(training, "SAVE_EVERY_SECONDS", -1)  # save at the end of every epoch
    calls = 0

    def dies(indices):
        nonlocal calls
        calls += 1
        if calls == 6:  # in the middle of the third epoch
            raise KeyboardInterrupt
        return load(indices)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", load=dies)
    assert load_checkpoint(tmp_path / "killed" / CHECKPOINT)[1]["epoch"] == 2
    resumed = train(tmp_path / "killed", resume=True)
    assert torch.equal(weights(whole), weights(resumed))
    assert (tmp_path / "whole" / "log.jsonl").read_bytes() == (tmp_path / "killed" / "log.jsonl").read_bytes()


def test_a_non_finite_loss_names_term_step_and_images(tmp_path):
    config = with_options(SMALL, {"density_weight": 0.0})
    network = build_network(config, 0)
    network.target.fit([IMAGES.float() / 255])
    with torch.no_grad():
        network.decoder.to_image.bias.fill_(float("nan"))
    with pytest.raises(TrainingError) as error:
        fit(network, load, NAMES, seed=0, device=CPU, run=tmp_path / "r", identity={}, progress=False)
    first = [NAMES[i] for i in batch_order(7, 3, 0, 0)[0]]
    assert str(error.value).startswith(f"The mse term became nan in epoch 1, step 1, on: {', '.join(first)}.")
    assert not (tmp_path / "r" / CHECKPOINT).exists()


def test_steps_that_are_read_together_name_the_one_that_failed():
    pending = training.Pending(torch.device("meta"))
    for step in range(training.READ_EVERY - 1):
        value = torch.tensor(float("inf") if step == 3 else 1.0)
        assert pending.add({"mse": value, "total": torch.tensor(2.0)}, 1, step, [f"{step}.png"]) == []
    with pytest.raises(TrainingError, match=r"The mse term became inf in epoch 2, step 4, on: 3\.png\."):
        pending.read()
    assert pending.read() == []


def test_resume_refuses_another_configuration_and_says_what_differs(tmp_path):
    train(tmp_path / "r")
    with pytest.raises(CheckpointError, match=r"components \(there 2, now 3\)"):
        train(tmp_path / "r", config=with_options(SMALL, {"components": 3}), resume=True)
    with pytest.raises(CheckpointError, match=r"seed \(there 0, now 5\)"):
        train(tmp_path / "r", seed=5, resume=True)


def test_gradients_start_from_zero_in_every_step():
    network = build_network(SMALL, 0)
    network.target.fit([IMAGES.float() / 255])
    optimiser = torch.optim.SGD(network.parameters(), lr=0.0)
    found = []
    for _ in range(2):  # learning rate 0 and one generator state: the same gradient twice, not its double
        training.train_step(network.train(), optimiser, IMAGES[:4].float() / 255, training.step_generator(0, 0), 0.0)
        found.append(network.embed.weight.grad.clone())
    assert found[0].abs().max() > 0
    assert torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-7)


def test_every_image_once_per_epoch_and_no_batch_of_one():
    for count, batch in [(7, 3), (9, 4), (1, 4), (16, 5)]:
        batches = batch_order(count, batch, seed=3, epoch=2)
        assert sorted(i for b in batches for i in b) == list(range(count))
        assert all(len(b) > 1 for b in batches) or count == 1
    assert batch_order(9, 4, 0, 0) != batch_order(9, 4, 0, 1)


def test_length_and_learning_rate():
    config = with_options(SMALL, {"epochs": 10, "max_steps": 15})
    assert total_steps(config, 7) == 15  # 2 batches of 3 and 4 make 20 steps in 10 epochs
    assert total_steps(with_options(config, {"max_steps": 0}), 7) == 20
    rates = [learning_rate(config, s, 100) for s in range(100)]
    assert rates.index(max(rates)) in (4, 5) and max(rates) == pytest.approx(1e-3)
    assert rates[-1] < 1e-5
    assert learning_rate(with_options(config, {"schedule": "constant"}), 50, 100) == 1e-3


def test_loss_falls(tmp_path):
    train(tmp_path / "r", config=with_options(SMALL, {"epochs": 40, "minimax": "none"}))
    lines = [json.loads(line) for line in (tmp_path / "r" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["density"] < lines[0]["density"] - 0.05
    assert lines[-1]["mse"] < lines[0]["mse"]
