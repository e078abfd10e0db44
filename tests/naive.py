"""The slow, literal twin of everything fast: one sample at a time, each network in its own symbols.

Nothing here knows the canonical form (U, A, C) of the package, except `units`, which the naive
population gradient needs.  A twin takes one sample x (d,) and its weight matrices, and returns F(x)
and ``backward``, which maps the error e = F - y to the gradient of |e|^2.
"""

import numpy as np
import scipy.special


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


def vanilla_free(x, W1, C):
    """||relu(W1' x)||_1 + c' x."""
    z = W1.T @ x
    F = np.abs(relu(z)).sum() + C[:, 0] @ x

    def backward(e):
        return [2 * np.outer(x, e * np.ones(z.size) * (z > 0)), 2 * e * x[:, None]]

    return F, backward


def li_free(x, W1, C):
    """||relu((I + W1)' x)||_1 + c' x."""
    z = (np.eye(*W1.shape) + W1).T @ x
    F = np.abs(relu(z)).sum() + C[:, 0] @ x

    def backward(e):
        return [2 * np.outer(x, e * np.ones(z.size) * (z > 0)), 2 * e * x[:, None]]

    return F, backward


def two_weight_free(x, W1, W2, C):
    """sum(W2' relu((W1 + I)' x)) + c' x."""
    one = np.ones(x.size)
    z = (W1 + np.eye(*W1.shape)).T @ x
    h = relu(z)
    F = (W2.T @ h).sum() + C[:, 0] @ x

    def backward(e):
        return [2 * np.outer(x, e * (W2 @ one) * (z > 0)), 2 * e * np.outer(h, one), 2 * e * x[:, None]]

    return F, backward


def resnet_free(x, W1, W2, C):
    """W2' relu(W1' x) + C' x."""
    z = W1.T @ x
    h = relu(z)
    F = W2.T @ h + C.T @ x

    def backward(e):
        return [2 * np.outer(x, (W2 @ e) * (z > 0)), 2 * np.outer(h, e), 2 * np.outer(x, e)]

    return F, backward


def modresnet_free(x, W1, W2, C):
    """W2' relu((W1 + I)' x) + C' x."""
    z = (W1 + np.eye(*W1.shape)).T @ x
    h = relu(z)
    F = W2.T @ h + C.T @ x

    def backward(e):
        return [2 * np.outer(x, (W2 @ e) * (z > 0)), 2 * np.outer(h, e), 2 * np.outer(x, e)]

    return F, backward


def even(x, W1):
    """||W1' x||_1 / 2, with |z|' = -1 at z = 0."""
    z = W1.T @ x
    F = np.abs(z).sum() / 2

    def backward(e):
        return [2 * np.outer(x, e * np.where(z > 0, 1, -1) / 2)]

    return F, backward


def li_bias(x, W1, b):
    """||relu((I + W1)' x + b)||_1."""
    z = (np.eye(*W1.shape) + W1).T @ x + b
    F = np.abs(relu(z)).sum()

    def backward(e):
        active = e * np.ones(z.size) * (z > 0)
        return [2 * np.outer(x, active), 2 * active]

    return F, backward


def leaky(x, W1, W2, C):
    """sum(W2' s(W1' x)) + c' x with s(z) = z for z > 0 and z / 4 below: again one that users may make."""
    one = np.ones(x.size)
    z = W1.T @ x
    h = np.where(z > 0, z, z / 4)
    F = (W2.T @ h).sum() + C[:, 0] @ x

    def backward(e):
        slope = np.where(z > 0, 1, 1 / 4)
        return [2 * np.outer(x, e * (W2 @ one) * slope), 2 * e * np.outer(h, one), 2 * e * x[:, None]]

    return F, backward


def all_blocks(x, W1, W2, C, b):
    """W2' s((W1 + I/2)' x + b) + C' x with s(z) = z for z > 0 and z / 4 below: all that a record can say."""
    z = (W1 + np.eye(*W1.shape) / 2).T @ x + b
    h = np.where(z > 0, z, z / 4)
    F = W2.T @ h + C.T @ x

    def backward(e):
        g = (W2 @ e) * np.where(z > 0, 1, 1 / 4)
        return [2 * np.outer(x, g), 2 * np.outer(h, e), 2 * np.outer(x, e), 2 * g]

    return F, backward


# name: the twin, its matrices, and (identity, read-out, linear part, slopes)
TWINS = {
    "li": (li, ["W1"], (1, "ones", 0, (1, 0))),
    "vanilla": (vanilla, ["W1"], (0, "ones", 0, (1, 0))),
    "resnet": (resnet, ["W1", "W2"], (0, "matrix", 1, (1, 0))),
    "modresnet": (modresnet, ["W1", "W2"], (1, "matrix", 1, (1, 0))),
    "two-weight": (two_weight, ["W1", "W2"], (1, "row sums", 0, (1, 0))),
    "resnet-sum": (resnet_sum, ["W1", "W2"], (0, "row sums", 1, (1, 0))),
    "modresnet-sum": (modresnet_sum, ["W1", "W2"], (1, "row sums", 1, (1, 0))),
    "vanilla-free": (vanilla_free, ["W1", "C"], (0, "ones", None, (1, 0))),
    "li-free": (li_free, ["W1", "C"], (1, "ones", None, (1, 0))),
    "two-weight-free": (two_weight_free, ["W1", "W2", "C"], (1, "row sums", None, (1, 0))),
    "resnet-free": (resnet_free, ["W1", "W2", "C"], (0, "matrix", None, (1, 0))),
    "modresnet-free": (modresnet_free, ["W1", "W2", "C"], (1, "matrix", None, (1, 0))),
    "even": (even, ["W1"], (0, "ones", 0, (0.5, -0.5))),
    "li-bias": (li_bias, ["W1", "b"], (1, "ones", 0, (1, 0))),
    "half": (half, ["W1", "W2"], (0.5, "matrix", 0.5, (1, 0))),
    "all": (all_blocks, ["W1", "W2", "C", "b"], (0.5, "matrix", None, (1, 0.25))),
    "leaky": (leaky, ["W1", "W2", "C"], (0, "row sums", None, (1, 0.25))),
}


def blocks(name, theta, d):
    """[W1] and, of W2, C and b, what the network has, in this order."""
    matrices, vector = TWINS[name][1], TWINS[name][2][1] == "matrix"
    rest = d * (d if vector else 1) if "C" in matrices else 0
    k = (len(theta) - rest) // (d * (1 + ("W2" in matrices)) + ("b" in matrices))
    shapes = {"W1": (d, k), "W2": (k, d), "C": (d, d if vector else 1), "b": (k,)}
    ends = {"W1": d * k, "W2": d * k, "C": rest, "b": k}
    found, start = [], 0
    for matrix in matrices:
        found.append(theta[start : start + ends[matrix]].reshape(shapes[matrix]))
        start += ends[matrix]
    return found


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
    """The hidden units [(u_j, a_j)], the linear part C and the slopes of F(x) = sum_j a_j s(u_j'x) + C'x.

    Where there are biases, they end the u_j.
    """
    weights = dict(zip(TWINS[name][1], blocks(name, np.asarray(theta, float), d)))
    identity, readout, linear, slopes = TWINS[name][2]
    U = weights["W1"] + identity * np.eye(*weights["W1"].shape)
    U = np.vstack([U, weights["b"]]) if "b" in weights else U
    A = {
        "ones": lambda: np.ones((U.shape[1], 1)),
        "row sums": lambda: weights["W2"].sum(axis=1)[:, None],
        "matrix": lambda: weights["W2"],
    }[readout]()
    C = weights["C"] if linear is None else linear * (np.eye(d) if readout == "matrix" else np.ones((d, 1)))
    return list(zip(U.T, A)), C, slopes


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


def active_mean(u, v):
    """E[1(z > 0) relu(y) (x, 1)] for z = (x, 1)'u and y = (x, 1)'v, u and v ending in their biases.

    An integral over t, the part of x along u: given t, y is normal, and its relu has a mean in closed form.
    """
    (u, b), (v, c) = (u[:-1], u[-1]), (v[:-1], v[-1])
    s, nodes, weights = np.linalg.norm(u), *np.polynomial.legendre.leggauss(40)
    along, first = u / s, min(max(-b / s, -9.0), 9.0)
    across, slope = v - (v @ along) * along, v @ along
    q = np.linalg.norm(across)
    turn = -c / slope + q / abs(slope) * np.arange(-10, 11)  # there y changes its sign, abruptly where q is small
    edges = np.unique(np.clip(np.append(np.linspace(first, 9.0, 20), turn), first, 9.0))
    half = np.diff(edges) / 2
    t = (half[:, None] * nodes + (edges[:-1] + half)[:, None]).ravel()
    mass = (half[:, None] * weights).ravel() * np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)
    mean = c + t * slope
    ratio = mean / max(q, 1e-150)
    P, p = scipy.special.ndtr(ratio), np.exp(-(ratio**2) / 2) / np.sqrt(2 * np.pi)
    value = mass @ (mean * P + q * p)
    x = along * (mass @ (t * (mean * P + q * p))) + across * (mass @ P)
    return np.append(x, value)


def relu_mean(u):
    """E[relu((x, 1)'u) (x, 1)]."""
    w, b, s = u[:-1], u[-1], np.linalg.norm(u[:-1])
    P, p = scipy.special.ndtr(b / s), np.exp(-((b / s) ** 2) / 2) / np.sqrt(2 * np.pi)
    return np.append(P * w, b * P + s * p)


def active_square(u):
    """E[1((x, 1)'u > 0) (x, 1) (x, 1)']."""
    w, b, s = u[:-1], u[-1], np.linalg.norm(u[:-1])
    P, p, along = scipy.special.ndtr(b / s), np.exp(-((b / s) ** 2) / 2) / np.sqrt(2 * np.pi), w / s
    inner = P * np.eye(len(w)) - b / s * p * np.outer(along, along)
    return np.block([[inner, p * along[:, None]], [p * along, np.array([P])]])


def slope(u, v, d):
    """E[1(u) relu(v) x], with a last entry for the bias where there are biases: the gradient of E[relu relu] in u."""
    if len(u) == d:
        return dG_du(u, v)
    return relu_mean(u) if np.array_equal(u, v) else active_mean(u, v)


def ramps(units, slopes):
    """The units as sums of relus: s(z) = p relu(z) - n relu(-z).  Each as (u, q, number of the unit, sign, slope)."""
    p, n = slopes
    for j, (u, a) in enumerate(units):
        yield u, p * a, j, 1, p
        if n:
            yield -u, -n * a, j, -1, -n


def residual(name, theta, teacher, theta_star, d):
    """The student's and the teacher's ramps, the latter with -a*, and D = C - C*; with biases for x that end in 1."""
    (students, C, slopes), (teachers, C_star, slopes_star) = units(name, theta, d), units(teacher, theta_star, d)
    if "b" in TWINS[name][1] + TWINS[teacher][1]:
        students, teachers = ([(np.append(u, np.zeros(d + 1 - len(u))), a) for u, a in x] for x in (students, teachers))
        C, C_star = np.vstack([C, 0 * C[:1]]), np.vstack([C_star, 0 * C_star[:1]])
    return list(ramps(students, slopes)), list(ramps([(u, -a) for u, a in teachers], slopes_star)), C - C_star


def population_loss(name, theta, teacher, theta_star, d):
    """E|F(x) - F*(x)|^2, a sum over all pairs of ramps."""
    own, other, D = residual(name, theta, teacher, theta_star, d)
    loss = np.sum(D**2)
    for u, q, *_ in own + other:
        loss += 2 * q @ (D.T @ (u / 2 if len(u) == d else relu_mean(u)))
        for v, r, *_ in own + other:
            loss += (q @ r) * (G(u, v) if len(u) == d else u @ slope(u, v, d))
    return loss


def population_gradient(name, theta, teacher, theta_star, d):
    """Its gradient in theta."""
    own, other, D = residual(name, theta, teacher, theta_star, d)
    k = 1 + max(j for _, _, j, _, _ in own)
    dU, dA, dC = np.zeros((len(D), k)), np.zeros((k, D.shape[1])), 2 * D
    for u, q, *_ in own + other:
        dC += 2 * np.outer(u / 2 if len(u) == d else relu_mean(u), q)
    for u, a, j, sign, rate in own:
        square, mean = (np.eye(d) / 2, u / 2) if len(u) == d else (active_square(u), relu_mean(u))
        du, da = 2 * square @ D @ a, 2 * D.T @ mean
        for v, q, *_ in own + other:
            du += 2 * (a @ q) * slope(u, v, d)
            da += 2 * (G(u, v) if len(u) == d else u @ slope(u, v, d)) * q
        dU[:, j] += sign * du
        dA[j] += rate * da
    found = {"W1": dU[:d], "W2": dA if TWINS[name][2][1] == "matrix" else np.tile(dA, d), "C": dC[:d], "b": dU[d:]}
    return np.concatenate([found[matrix].ravel() for matrix in TWINS[name][1]])
