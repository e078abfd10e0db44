"""The slow, literal twin of everything fast: one sample at a time, each network in its own symbols.

Nothing here knows the canonical form (U, A, C) of the package, except `units`, which the naive
population gradient needs.  A twin takes one sample x (d,) and its weight matrices, and returns F(x)
and ``backward``, which maps the error e = F - y to the gradient of |e|^2.
"""

import numpy as np


def relu(z):
    return np.where(z > 0, z, 0.0)


def li(x, W1):
    """||relu((I + W1)' x)||_1."""
    d, k = W1.shape
    z = (np.eye(d, k) + W1).T @ x
    F = np.abs(relu(z)).sum()

    def backward(e):
        return [2 * np.outer(x, e * np.ones(k) * (z > 0))]

    return F, backward


def vanilla(x, W1):
    """||relu(W1' x)||_1."""
    z = W1.T @ x
    F = np.abs(relu(z)).sum()

    def backward(e):
        return [2 * np.outer(x, e * np.ones(z.size) * (z > 0))]

    return F, backward


def resnet(x, W1, W2):
    """W2' relu(W1' x) + x."""
    z = W1.T @ x
    h = relu(z)
    F = W2.T @ h + x

    def backward(e):
        return [2 * np.outer(x, (W2 @ e) * (z > 0)), 2 * np.outer(h, e)]

    return F, backward


def modresnet(x, W1, W2):
    """W2' relu((W1 + I)' x) + x."""
    z = (W1 + np.eye(*W1.shape)).T @ x
    h = relu(z)
    F = W2.T @ h + x

    def backward(e):
        return [2 * np.outer(x, (W2 @ e) * (z > 0)), 2 * np.outer(h, e)]

    return F, backward


def half(x, W1, W2):
    """W2' relu((W1 + I/2)' x) + x/2: no architecture of the package, but one that its users may make."""
    z = (W1 + np.eye(*W1.shape) / 2).T @ x
    h = relu(z)
    F = W2.T @ h + x / 2

    def backward(e):
        return [2 * np.outer(x, (W2 @ e) * (z > 0)), 2 * np.outer(h, e)]

    return F, backward


def two_weight(x, W1, W2):
    """sum(W2' relu((W1 + I)' x))."""
    one = np.ones(x.size)
    z = (W1 + np.eye(*W1.shape)).T @ x
    h = relu(z)
    F = (W2.T @ h).sum()

    def backward(e):
        return [2 * np.outer(x, e * (W2 @ one) * (z > 0)), 2 * e * np.outer(h, one)]

    return F, backward


def resnet_sum(x, W1, W2):
    """sum(W2' relu(W1' x) + x)."""
    one = np.ones(x.size)
    z = W1.T @ x
    h = relu(z)
    F = (W2.T @ h + x).sum()

    def backward(e):
        return [2 * np.outer(x, e * (W2 @ one) * (z > 0)), 2 * e * np.outer(h, one)]

    return F, backward


def modresnet_sum(x, W1, W2):
    """sum(W2' relu((W1 + I)' x) + x)."""
    one = np.ones(x.size)
    z = (W1 + np.eye(*W1.shape)).T @ x
    h = relu(z)
    F = (W2.T @ h + x).sum()

    def backward(e):
        return [2 * np.outer(x, e * (W2 @ one) * (z > 0)), 2 * e * np.outer(h, one)]

    return F, backward


# name: the twin, how many weight matrices it takes, and (identity, read-out, linear part)
TWINS = {
    "li": (li, 1, (1, "ones", 0)),
    "vanilla": (vanilla, 1, (0, "ones", 0)),
    "resnet": (resnet, 2, (0, "matrix", 1)),
    "modresnet": (modresnet, 2, (1, "matrix", 1)),
    "two-weight": (two_weight, 2, (1, "row sums", 0)),
    "resnet-sum": (resnet_sum, 2, (0, "row sums", 1)),
    "modresnet-sum": (modresnet_sum, 2, (1, "row sums", 1)),
    "half": (half, 2, (0.5, "matrix", 0.5)),
}


def blocks(name, theta, d):
    """[W1] or [W1, W2]."""
    count = TWINS[name][1]
    k = len(theta) // (count * d)
    return [theta[: d * k].reshape(d, k), theta[d * k :].reshape(k, -1)][:count]


def predict(name, theta, X):
    """F at every row of X."""
    weights = blocks(name, np.asarray(theta, float), X.shape[1])
    return np.array([TWINS[name][0](x, *weights)[0] for x in np.asarray(X, float)])


def loss_and_gradient(name, theta, X, Y):
    """Mean over the samples of |F(x) - y|^2, and its gradient in theta, in float64."""
    theta, X, Y = (np.asarray(a, float) for a in (theta, X, Y))
    weights = blocks(name, theta, X.shape[1])
    loss, gradient = 0.0, np.zeros_like(theta)
    for x, y in zip(X, Y):
        F, backward = TWINS[name][0](x, *weights)
        e = F - y
        loss += np.sum(e**2)
        gradient += np.concatenate([block.ravel() for block in backward(e)])
    return loss / len(X), gradient / len(X)


# ---------------------------------------------------------------------------- optimizers, batches


def nesterov(gradient, theta, batches, lr, momentum):
    """One step a batch: v <- momentum v + g, theta <- theta - lr (g + momentum v)."""
    theta, v = np.array(theta, float), np.zeros(len(theta))
    for batch in batches:
        g = gradient(theta, batch)
        v = momentum * v + g
        theta = theta - lr * (g + momentum * v)
    return theta


def sgd(gradient, theta, batches, lr):
    """One step a batch: theta <- theta - lr g."""
    theta = np.array(theta, float)
    for batch in batches:
        theta = theta - lr * gradient(theta, batch)
    return theta


def epochs(size, batch, rng):
    """Index arrays: every epoch a fresh permutation of the data set, its last batch possibly short."""
    while True:
        order = rng.permutation(size)
        for start in range(0, size, batch):
            yield order[start : start + batch]


# ------------------------------------------------------------------------------------- population


def units(name, theta, d):
    """The hidden units [(u_j, a_j)] and the linear part C of F(x) = sum_j a_j relu(u_j'x) + C'x."""
    W1, *W2 = blocks(name, np.asarray(theta, float), d)
    identity, readout, linear = TWINS[name][2]
    U = W1 + identity * np.eye(*W1.shape)
    A = {
        "ones": lambda: np.ones((U.shape[1], 1)),
        "row sums": lambda: W2[0].sum(axis=1)[:, None],
        "matrix": lambda: W2[0],
    }[readout]()
    C = linear * (np.eye(d) if readout == "matrix" else np.ones((d, 1)))
    return list(zip(U.T, A)), C


def angle(u, v):
    u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    return 2 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))


def G(u, v):
    """E[relu(u'x) relu(v'x)] for x ~ N(0, I): the arc-cosine kernel of Cho & Saul."""
    phi = angle(u, v)
    length = np.linalg.norm(u) * np.linalg.norm(v)
    return length * (np.sin(phi) + (np.pi - phi) * np.cos(phi)) / (2 * np.pi)


def dG_du(u, v):
    """Gradient of G in its first argument."""
    phi = angle(u, v)
    along_u = np.linalg.norm(v) * np.sin(phi) * u / np.linalg.norm(u)
    return (along_u + (np.pi - phi) * v) / (2 * np.pi)


def population_loss(name, theta, teacher, theta_star, d):
    """E|F(x) - F*(x)|^2, a sum over all pairs of units."""
    students, C = units(name, theta, d)
    teachers, C_star = units(teacher, theta_star, d)
    residual = students + [(u, -a) for u, a in teachers]
    D = C - C_star
    loss = np.sum(D**2)
    for u, q in residual:
        loss += q @ (D.T @ u)
        for v, r in residual:
            loss += (q @ r) * G(u, v)
    return loss


def population_gradient(name, theta, teacher, theta_star, d):
    """Its gradient in theta."""
    students, C = units(name, theta, d)
    teachers, C_star = units(teacher, theta_star, d)
    residual = students + [(u, -a) for u, a in teachers]
    D, k = C - C_star, len(students)
    dU, dA = np.zeros((d, k)), np.zeros((k, C.shape[1]))
    for j, (u, a) in enumerate(students):
        dU[:, j] = D @ a
        dA[j] = D.T @ u
        for v, q in residual:
            dU[:, j] += 2 * (a @ q) * dG_du(u, v)
            dA[j] += 2 * G(u, v) * q
    readout = TWINS[name][2][1]
    if readout == "ones":
        return dU.ravel()
    return np.concatenate([dU.ravel(), (dA if readout == "matrix" else np.tile(dA, d)).ravel()])
