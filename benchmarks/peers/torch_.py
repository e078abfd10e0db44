"""PyTorch: eager with autograd and fused in-place updates, and a compiled step by hand."""

import shutil
import time

import numpy as np
import torch

from . import System, Unavailable, expected_gradient, teacher_units


def prepare(threads):
    torch.set_num_threads(threads)
    torch._dynamo.config.recompile_limit = 1000


def tensors(*arrays):
    return [None if a is None else torch.from_numpy(np.array(a)) for a in arrays]


def gradient(U, A, X, T):
    """(dU, dA) of the mean squared error; leading axes are runs."""
    H = torch.relu(X @ U)
    R = (torch.addmm(T, H, A, beta=-1) if X.ndim == 2 else torch.baddbmm(T, H, A, beta=-1)) * (2 / X.shape[-2])
    G = torch.ops.aten.threshold_backward(R @ A.mT, H, 0)
    return X.mT @ G, H.mT @ R


def nesterov(job, w, v, g):
    v.mul_(job.momentum).add_(g)
    w.sub_(g, alpha=job.lr).sub_(v, alpha=job.lr * job.momentum)


def begin(job, requires_grad=False):
    U, W = tensors(job.U, job.W)
    velocities = [None if w is None else torch.zeros_like(w) for w in (U, W)]
    return [w if w is None else w.requires_grad_(requires_grad) for w in (U, W)] + velocities


def step(job):
    rows, orders, d = torch.from_numpy(job.loss.rows), torch.from_numpy(job.orders), job.d
    ones, readout = torch.ones(d, 1, dtype=rows.dtype), job.arch.readout

    def by_autograd(U, W, VU, VW, index):
        batch = rows.index_select(0, index)
        H = torch.relu(batch[:, :d] @ U)
        if readout == "vector":
            R = torch.addmm(batch[:, d:], H, W, beta=-1)
        else:
            F = H.sum(1) if W is None else H @ W.sum(1)
            R = F - batch[:, d]
        weights = [w for w in (U, W) if w is not None]
        gradients = torch.autograd.grad(R.square().sum() / job.batch, weights)
        velocities = [v for v in (VU, VW) if v is not None]
        with torch.no_grad():
            torch._foreach_mul_(velocities, job.momentum)
            torch._foreach_add_(velocities, gradients)
            torch._foreach_add_(weights, gradients, alpha=-job.lr)
            torch._foreach_add_(weights, velocities, alpha=-job.lr * job.momentum)

    def by_hand(U, W, VU, VW, index):
        batch = rows.index_select(0, index)
        A = W if readout == "vector" else ones if W is None else W.sum(1, keepdim=True)
        dU, dA = gradient(U, A, batch[:, :d], batch[:, d:])
        nesterov(job, U, VU, dU)
        if W is not None:
            nesterov(job, W, VW, dA.expand_as(W))

    def system(function, threads):
        autograd = function is by_autograd

        def advance(state, n):
            torch.set_num_threads(threads)
            with torch.inference_mode(not autograd):
                for i in range(n):
                    for index in orders[i % len(orders)].unbind():
                        function(*state, index)
            return state

        return System(lambda: begin(job, autograd), advance, lambda s: tensors_to_numpy(s[:2]))

    few = 1 if d <= 50 else job.threads  # small sizes lose with more
    return {
        "PyTorch": [system(by_autograd, threads) for threads in {few, job.threads}],
        "PyTorch compiled": [lambda: system(compiled(by_hand, few, job), few)],
    }


def tensors_to_numpy(pair):
    return [None if w is None else w.detach().numpy() for w in pair]


def compiled(function, threads, job):
    """`torch.compile` of a step, where it works."""
    if job.quick:
        raise Unavailable("compiles too long for a quick run")
    if job.arch.name != "modresnet":
        raise Unavailable("compiles for half a minute, so for modresnet only")
    if not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
        raise Unavailable("torch.compile needs a C++ compiler")
    torch.set_num_threads(threads)  # it bakes them in
    torch.compiler.reset()
    fast = torch.compile(function, fullgraph=True, dynamic=False)

    def attempt(*arguments):
        try:
            return fast(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise Unavailable(f"torch.compile fails: {str(error).splitlines()[0]}") from None

    return attempt


def ensemble(job):
    U_star, A_star = tensors(*(a.astype(job.dtype) for a in job.teacher.canonical()[:2]))

    def run(n):
        torch.set_num_threads(job.threads)
        generator = torch.Generator().manual_seed(1)
        with torch.inference_mode():
            U, A, VU, VA = begin(job)
            X = torch.empty(len(U), job.batch, job.d, dtype=U.dtype)
            for _ in range(n):
                X.normal_(generator=generator)
                dU, dA = gradient(U, A, X, torch.relu(X @ U_star) @ A_star)
                nesterov(job, U, VU, dU)
                nesterov(job, A, VA, dA)
        return U.numpy(), A.numpy()

    return {"PyTorch": [run]}


def population(job):
    teacher = tensors(*teacher_units(job))

    def system(function):
        def advance(state, n):
            U, A, VU, VA = state
            torch.set_num_threads(job.threads)
            with torch.inference_mode():
                for _ in range(n * job.chunk):
                    dU, dA = function(torch, U, A, *teacher)
                    nesterov(job, U, VU, dU)
                    nesterov(job, A, VA, dA)
            return state

        return System(lambda: begin(job), advance, lambda s: tensors_to_numpy(s[:2]))

    return {
        "PyTorch": [system(expected_gradient)],
        "PyTorch compiled": [lambda: system(compiled(expected_gradient, job.threads, job))],
    }


def hessian(job):
    teacher, (U, A) = tensors(*teacher_units(job)), tensors(job.U, job.W)
    own = torch.eye(job.d, 2 * job.d, dtype=torch.bool)

    def flat(theta):
        pair = theta[: U.numel()].view_as(U), theta[U.numel() :].view_as(A)
        return torch.cat([g.flatten() for g in expected_gradient(torch, *pair, *teacher, own)])

    theta = torch.cat([U.flatten(), A.flatten()])
    return {"PyTorch": [lambda: torch.func.jacfwd(flat)(theta).numpy()]}


class TwoWeight(torch.nn.Module):
    """As the post's notebook has it."""

    def __init__(self, W1, W2):
        super().__init__()
        self.fc1 = torch.nn.Linear(*W1.shape, bias=False)
        self.fc2 = torch.nn.Linear(*W2.shape, bias=False)
        with torch.no_grad():
            self.fc1.weight.copy_(torch.from_numpy(W1.T.copy()))
            self.fc2.weight.copy_(torch.from_numpy(W2.T.copy()))

    def forward(self, x):
        return self.fc2(torch.relu(self.fc1(x) + x)).sum(-1)


def notebook(X, Y, order, W1, W2, lr, momentum, one_by_one):
    """(seconds, batch losses) of the notebook's loop: as published, sample by sample, or vectorized."""
    X, Y, order = torch.from_numpy(X), torch.from_numpy(Y), torch.from_numpy(order)
    net, criterion, losses = TwoWeight(W1, W2), torch.nn.MSELoss(), []
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum, nesterov=True)

    def step(index):
        x, y = X[index], Y[index]
        output = torch.stack([net(sample) for sample in x]) if one_by_one else net(x)
        loss = criterion(output, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

    tick = time.perf_counter()
    for index in order:
        step(index)
    return time.perf_counter() - tick, torch.stack(losses).numpy()
