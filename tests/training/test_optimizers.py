import pytest
import torch

from clip_decomp.training.optimizers import Float32Muon


def _parameters(seed: int = 0) -> list[torch.nn.Parameter]:
    torch.manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in ((24, 8), (8, 24), (16, 16))]


def _step(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


@pytest.mark.parametrize("adjust", [None, "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_same_steps_as_torchs_muon_but_for_the_rounding_of_bfloat16(adjust, nesterov):
    options = {"lr": 0.1, "weight_decay": 0.05, "adjust_lr_fn": adjust, "nesterov": nesterov}
    theirs, ours, start = _parameters(), _parameters(), _parameters()
    optimizers = torch.optim.Muon(theirs, **options), Float32Muon(ours, **options)
    for seed in range(3):
        _step(optimizers[0], theirs, seed)
        _step(optimizers[1], ours, seed)
    for their, our, before in zip(theirs, ours, start, strict=True):
        moved, apart = (their - before).norm(), (their - our).norm()
        assert 0 < apart < 0.02 * moved  # bfloat16 has 8 bits


def test_one_step_orthogonalizes_in_float32():
    parameter = torch.nn.Parameter(torch.zeros(4, 4))
    parameter.grad = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    Float32Muon([parameter], lr=1.0, weight_decay=0.0).step()
    assert torch.allclose(parameter, torch.diag(parameter.diag()), atol=1e-7)
    assert ((-parameter.diag() > 0.6) & (-parameter.diag() < 1.3)).all()  # singular values near one, as published


def test_states_are_torchs_own_and_parameters_without_gradients_stay():
    theirs, ours = _parameters(), _parameters()
    torchs, float32 = torch.optim.Muon(theirs, lr=0.1), Float32Muon(ours, lr=0.1)
    _step(torchs, theirs, 0)
    float32.load_state_dict(torchs.state_dict())
    before = [parameter.detach().clone() for parameter in ours]
    float32.step()
    assert all(torch.equal(parameter, start) for parameter, start in zip(ours, before, strict=True))
    assert torch.equal(float32.state[ours[0]]["momentum_buffer"], torchs.state[theirs[0]]["momentum_buffer"])
