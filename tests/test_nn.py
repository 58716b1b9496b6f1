"""The parts of fastconv.nn: layers and their gradients, losses, optimisers, initial weights, the summary's text."""
from __future__ import annotations

import re

import numpy as np
import pytest

from fastconv.nn import Sequential, data, layers, losses, mnist_network, models, optimizers
from fastconv.nn.initializers import fans, glorot_uniform
from fastconv.nn.seeding import Stream

EPS = np.finfo(np.float64).eps


def network(*stack: layers.Layer, shape: tuple[int, ...], seed: int = 3, dtype: str = "float64") -> Sequential:
    model = Sequential(stack, seed=seed, dtype=dtype)
    model.build((None, *shape))
    return model


# ---------------------------------------------------------------------------------------------------------------
# The thread's code and table

THREAD_TABLE = """\
Model: "sequential_1"
_________________________________________________________________
Layer (type) Output Shape Param #
=================================================================
conv2d_3 (Conv2D) (None, 26, 26, 32) 320
_________________________________________________________________
max_pooling2d_2 (MaxPooling2 (None, 13, 13, 32) 0
_________________________________________________________________
conv2d_4 (Conv2D) (None, 11, 11, 64) 18496
_________________________________________________________________
max_pooling2d_3 (MaxPooling2 (None, 5, 5, 64) 0
_________________________________________________________________
conv2d_5 (Conv2D) (None, 3, 3, 64) 36928
=================================================================
Total params: 55,744
Trainable params: 55,744
Non-trainable params: 0
_________________________________________________________________
"""


def the_threads_code() -> Sequential:
    model = models.Sequential()
    model.add(layers.Conv2D(32, (3, 3), activation='relu', input_shape=(28, 28, 1)))
    model.add(layers.MaxPooling2D((2, 2)))
    model.add(layers.Conv2D(64, (3, 3), activation='relu'))
    model.add(layers.MaxPooling2D((2, 2)))
    model.add(layers.Conv2D(64, (3, 3), activation='relu'))
    return model


def test_summary_is_the_threads_table(capsys):
    layers.reset_names()
    the_threads_code()  # the thread's table numbers its layers as a notebook does the second time
    the_threads_code().summary()
    text = capsys.readouterr().out
    # the forum folded runs of blanks
    assert re.sub(r" +", " ", re.sub(r" +\n", "\n", text)) == THREAD_TABLE
    lines = text.splitlines()
    assert {len(line) for line in lines[1:-4]} == {65}
    assert lines[4] == "conv2d_3 (Conv2D)            (None, 26, 26, 32)        320       "
    assert lines[6] == "max_pooling2d_2 (MaxPooling2 (None, 13, 13, 32)        0         "


def test_summary_of_the_whole_network(capsys):
    model = mnist_network()
    model.summary()
    text = capsys.readouterr().out
    assert re.findall(r"\) +(\d+) +$", text, re.M) == ["320", "0", "18496", "0", "36928", "0", "36928", "650"]
    assert "Total params: 93,322\n" in text and "(None, 576)" in text
    assert model.count_params() == 93322 and model.output_shape == (None, 10)


def test_summary_columns_on_request():
    lines: list[str] = []
    mnist_network().summary(columns=["multiply_adds", "bytes", "kernel"], batch_size=2, print_fn=lines.append)
    row = next(line for line in lines if "conv2d" in line)
    assert row.split()[-3] == f"{26 * 26 * 32 * 9:,}"
    assert row.split()[-2] == f"{4 * (320 + 2 * 26 * 26 * 32):,}"
    assert re.search(r"conv2d_forward_\w+__\w+", row)
    assert any("max_pool2d_forward_" in line for line in lines)
    with pytest.raises(ValueError, match=r"unknown column 'flops'.*multiply_adds, bytes, kernel"):
        mnist_network().summary(columns=["flops"])


def test_summary_counts_frozen_layers():
    lines: list[str] = []
    frozen = layers.Conv2D(4, 3, trainable=False, input_shape=(8, 8, 1))
    Sequential([frozen, layers.Conv2D(2, 3)]).summary(print_fn=lines.append)
    assert lines[-4:-1] == ["Total params: 114", "Trainable params: 74", "Non-trainable params: 40"]


def test_summary_before_shapes_says_what_to_do():
    with pytest.raises(ValueError, match="give the first layer input_shape="):
        Sequential([layers.Flatten()]).summary()


def test_names_are_numbered_as_in_keras():
    layers.reset_names()
    names = [cls(*args).name for cls, args in (
        (layers.Conv2D, (1, 1)), (layers.Conv2D, (1, 1)), (layers.MaxPooling2D, ()), (layers.AveragePooling2D, ()),
        (layers.Flatten, ()), (layers.Dense, (1,)), (layers.Dropout, (0.5,)), (layers.ReLU, ()), (layers.Dense, (1,)))]
    assert names == ["conv2d", "conv2d_1", "max_pooling2d", "average_pooling2d", "flatten", "dense", "dropout",
                     "re_lu", "dense_1"]


# ---------------------------------------------------------------------------------------------------------------
# Layers against plain loops

def windows(x, window, stride, dilation, padding, fill):
    """All windows of an NHWC array, (n, oh, ow, kh, kw, c), padded as TensorFlow pads."""
    (kh, kw), (sh, sw), (dh, dw) = window, stride, dilation
    n, h, w, c = x.shape
    reach = (kh - 1) * dh + 1, (kw - 1) * dw + 1
    pads = [(0, 0)] * 2
    if padding == "same":
        total = [max(0, (-(-i // s) - 1) * s + r - i) for i, s, r in zip((h, w), stride, reach)]
        pads = [(t // 2, t - t // 2) for t in total]
    x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    oh, ow = ((x.shape[1 + a] - reach[a]) // stride[a] + 1 for a in (0, 1))
    out = np.empty((n, oh, ow, kh, kw, c))
    for i in range(oh):
        for j in range(ow):
            out[:, i, j] = x[:, i * sh:i * sh + reach[0]:dh, j * sw:j * sw + reach[1]:dw]
    return out


CONVS = {
    "plain": ((7, 6, 3), {"filters": 4, "kernel_size": 3}),
    "same, even filter": ((6, 7, 2), {"filters": 3, "kernel_size": (2, 3), "padding": "same"}),
    "same, stride 2": ((7, 8, 2), {"filters": 3, "kernel_size": 3, "strides": 2, "padding": "same"}),
    "stride by axis, no bias": ((9, 8, 2), {"filters": 2, "kernel_size": (3, 2), "strides": (2, 3), "use_bias": False}),
    "dilated": ((9, 8, 2), {"filters": 3, "kernel_size": 3, "dilation_rate": (2, 1)}),
    "groups": ((5, 6, 4), {"filters": 6, "kernel_size": 3, "groups": 2}),
    "relu": ((6, 6, 2), {"filters": 5, "kernel_size": 3, "activation": "relu"}),
    "sigmoid": ((5, 5, 2), {"filters": 2, "kernel_size": 3, "activation": "sigmoid"}),
    "tanh": ((5, 5, 2), {"filters": 2, "kernel_size": 1, "activation": "tanh"}),
    "softmax": ((5, 5, 2), {"filters": 3, "kernel_size": 3, "activation": "softmax"}),
}


@pytest.mark.parametrize("case", CONVS)
def test_conv2d_forward(case):
    shape, arguments = CONVS[case]
    layer = layers.Conv2D(**arguments)
    network(layer, shape=shape)
    rng = np.random.default_rng(0)
    if "bias" in layer.weights:
        layer.weights["bias"][:] = rng.normal(size=layer.filters)
    x = rng.normal(size=(2, *shape))
    taps = windows(x, layer.kernel_size, layer.strides, layer.dilation_rate, layer.padding, 0)
    parts = []
    for group in range(layer.groups):
        cin, cout = shape[2] // layer.groups, layer.filters // layer.groups
        parts.append(np.einsum("nijabc,abco->nijo", taps[..., group * cin:(group + 1) * cin],
                               layer.weights["kernel"][..., group * cout:(group + 1) * cout]))
    z = np.concatenate(parts, axis=-1) + layer.weights.get("bias", 0)
    expected = {"relu": lambda: np.maximum(z, 0), "sigmoid": lambda: 1 / (1 + np.exp(-z)), "tanh": lambda: np.tanh(z),
                "softmax": lambda: np.exp(z) / np.exp(z).sum(-1, keepdims=True), "linear": lambda: z}
    y = layer.forward(x, False)
    assert y.shape == (2, *layer.output_shape)
    # 64 covers the sums of at most 27 terms and the functions after them
    assert np.abs(y - expected[layer.activation]()).max() <= 64 * EPS * max(1, np.abs(z).max())


@pytest.mark.parametrize(("pool", "stride", "padding"), [(2, None, "valid"), ((3, 2), (2, 1), "valid"),
                                                         (3, 2, "same"), (2, 1, "same")])
def test_pooling_forward(pool, stride, padding):
    x = np.random.default_rng(1).normal(size=(2, 7, 8, 3))
    for cls, fill, reduce in ((layers.MaxPooling2D, -np.inf, np.max), (layers.AveragePooling2D, np.nan, np.nanmean)):
        layer = cls(pool, stride, padding)
        network(layer, shape=x.shape[1:])
        expected = reduce(windows(x, layer.pool_size, layer.strides, (1, 1), padding, fill), axis=(3, 4))
        assert layer.output_shape == expected.shape[1:]
        for training in (False, True):
            assert np.abs(layer.forward(x, training) - expected).max() <= 16 * EPS * np.abs(x).max()


def test_dense_and_flatten_forward():
    dense = layers.Dense(4, activation="relu")
    model = network(layers.Flatten(), dense, shape=(2, 3, 2))
    x = np.random.default_rng(2).normal(size=(5, 2, 3, 2))
    expected = np.maximum(x.reshape(5, 12) @ dense.weights["kernel"], 0)
    assert np.abs(model.predict(x) - expected).max() <= 64 * EPS * np.abs(x).max()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_and_sigmoid_do_not_overflow(dtype):
    x = np.array([[1e4, 0, -1e4], [-1e4, -1e4, -1e4]], dtype)
    model = network(layers.Softmax(), shape=(3,), dtype=dtype)
    assert np.array_equal(model.predict(x)[0], [1, 0, 0]) and np.allclose(model.predict(x)[1], 1 / 3)
    assert np.array_equal(network(layers.Activation("sigmoid"), shape=(3,), dtype=dtype).predict(x)[0], [1, 0.5, 0])


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    layer = layers.Dropout(0.3)
    model = network(layer, shape=(1000,), dtype="float32")
    x = np.ones((100, 1000), np.float32)
    y = layer.forward(x, True).copy()
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.7)}
    # 100,000 draws: five standard deviations are 0.0073
    assert abs((y == 0).mean() - 0.3) < 0.0073
    assert not np.array_equal(layer.forward(x, True), y), "every step draws a new mask"
    assert np.array_equal(model.predict(x), x), "nothing is dropped outside training"
    again = layers.Dropout(0.3)
    network(again, shape=(1000,), dtype="float32")
    assert np.array_equal(again.forward(x, True), y), "the model's seed fixes the masks"


# ---------------------------------------------------------------------------------------------------------------
# Gradients against central differences in float64

STEP = 1e-5


def difference_bound(terms: np.ndarray) -> float:
    """Error of (f(v + h) - f(v - h)) / 2h for f = sum(terms): rounding of f over h, and h^2 f'''/6 with |f'''| <= 60
    for the smooth activations at weights and inputs of size one."""
    return 32 * EPS * np.abs(terms).sum() / STEP + 10 * STEP ** 2


def central_difference(function, array: np.ndarray, place: tuple[int, ...]) -> float:
    kept = array[place]
    array[place] = kept + STEP
    above = function()
    array[place] = kept - STEP
    below = function()
    array[place] = kept
    return (above - below) / (2 * STEP)


LAYERS = {f"Conv2D {case}": (shape, lambda arguments=arguments: layers.Conv2D(**arguments))
          for case, (shape, arguments) in CONVS.items()}
LAYERS |= {
    "MaxPooling2D": ((5, 6, 2), lambda: layers.MaxPooling2D(2)),
    "MaxPooling2D overlapping": ((6, 7, 2), lambda: layers.MaxPooling2D(3, 2, "same")),
    "AveragePooling2D": ((5, 6, 2), lambda: layers.AveragePooling2D(2)),
    "AveragePooling2D same": ((5, 6, 2), lambda: layers.AveragePooling2D((3, 2), (2, 1), "same")),
    "Flatten": ((2, 3, 2), layers.Flatten),
    "Dense": ((7,), lambda: layers.Dense(5)),
    "Dense relu": ((7,), lambda: layers.Dense(5, activation="relu")),
    "Dense sigmoid, no bias": ((7,), lambda: layers.Dense(5, activation="sigmoid", use_bias=False)),
    "Dense softmax": ((7,), lambda: layers.Dense(5, activation="softmax")),
    "Activation tanh": ((3, 2, 2), lambda: layers.Activation("tanh")),
    "Activation linear": ((3,), lambda: layers.Activation("linear")),
    "ReLU": ((3, 2, 2), layers.ReLU),
    "Softmax": ((4,), layers.Softmax),
}


@pytest.mark.parametrize("case", LAYERS)
def test_gradients_of_a_layer(case):
    shape, make = LAYERS[case]
    layer = make()
    network(layer, shape=shape)
    rng = np.random.default_rng(4)
    x = rng.normal(size=(3, *shape))
    if "bias" in layer.weights:
        layer.weights["bias"][:] = rng.normal(size=layer.weights["bias"].shape)
    direction = rng.normal(size=(3, *layer.output_shape))

    def objective() -> float:
        return float((layer.forward(x, True) * direction).sum())

    bound = difference_bound(layer.forward(x, True) * direction)
    dx = layer.backward(direction.copy(), True)
    for name, array, gradient in [("x", x, dx), *((n, w, layer.grads[n]) for n, w in layer.weights.items())]:
        gradient = gradient.copy()  # the objective's forward passes reuse the layer's buffers
        assert gradient.shape == array.shape and np.abs(gradient).max() > 0
        for place in np.ndindex(array.shape):
            numeric = central_difference(objective, array, place)
            assert abs(numeric - gradient[place]) <= bound, (name, place, numeric, gradient[place])


def test_gradient_of_dropout_is_its_mask():
    layer = layers.Dropout(0.5)
    network(layer, shape=(50,))
    y = layer.forward(np.ones((2, 50)), True).copy()
    assert np.array_equal(layer.backward(np.full((2, 50), 3.0), True), 3 * y)
    layer.forward(np.ones((2, 50)), False)
    assert np.array_equal(layer.backward(np.full((2, 50), 3.0), True), np.full((2, 50), 3.0))


LOSS_CASES = {
    "sparse_categorical_crossentropy": ("softmax", lambda rng: rng.integers(0, 4, 6)),
    "categorical_crossentropy": ("softmax", lambda rng: np.eye(4)[rng.integers(0, 4, 6)]),
    "binary_crossentropy": ("sigmoid", lambda rng: rng.integers(0, 2, (6, 4))),
    "mean_squared_error": (None, lambda rng: rng.normal(size=(6, 4))),
}


@pytest.mark.parametrize("loss", LOSS_CASES)
def test_gradients_of_a_whole_network(loss):
    """Through the masks that max pooling applies for ReLU, a layer without input gradient, and the fused ending."""
    activation, labels = LOSS_CASES[loss]
    model = network(layers.Conv2D(3, 3, activation="relu"), layers.MaxPooling2D(2),
                    layers.Conv2D(4, 2, activation="tanh"), layers.AveragePooling2D(2),
                    layers.Flatten(), layers.Dense(5, activation="relu"), layers.Dense(4, activation=activation),
                    shape=(9, 10, 2))
    model.compile(optimizers.SGD(learning_rate=0.0), loss)
    assert model.layers[0].masked_by_next and model.layers[1].masked_layer is model.layers[0]
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(6, 9, 10, 2)), labels(rng)
    before = model.get_weights()
    value = model.train_on_batch(x, y)["loss"]
    assert value == model.evaluate(x, y)
    bound = difference_bound(np.array([value]))
    checked = 0
    for layer in model.layers:
        for name, weight in layer.weights.items():
            gradient = layer.grads[name].copy()
            places = list(np.ndindex(weight.shape))
            for place in places[::max(1, len(places) // 12)]:
                numeric = central_difference(lambda: model.evaluate(x, y), weight, place)
                assert abs(numeric - gradient[place]) <= bound, (layer.name, name, place)
                checked += 1
    assert checked > 60
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights())), "a zero rate moves nothing"


def test_the_mask_in_the_pooling_equals_the_mask_in_the_convolution():
    x = np.random.default_rng(6).normal(size=(2, 8, 8, 1)).astype(np.float32)
    y = np.array([0, 1])
    gradients = []
    for fused in (True, False):
        model = network(layers.Conv2D(4, 3, activation="relu"), layers.MaxPooling2D(3, 2), layers.Flatten(),
                        layers.Dense(2, activation="softmax"), shape=(8, 8, 1), dtype="float32")
        model.compile("sgd", "sparse_categorical_crossentropy")
        if not fused:
            model.layers[0].masked_by_next, model.layers[1].masked_layer = False, None
        model.train_on_batch(x, y)
        gradients.append({name: gradient.copy() for name, gradient in model.layers[0].grads.items()})
    assert np.array_equal(gradients[0]["kernel"], gradients[1]["kernel"])
    # the bias sums the pooled gradient: the same terms in another order
    total = np.abs(gradients[0]["bias"] - gradients[1]["bias"])
    assert total.max() <= 64 * np.finfo(np.float32).eps * np.abs(gradients[1]["bias"]).max()


# ---------------------------------------------------------------------------------------------------------------
# Losses

def test_cross_entropies_agree_and_are_stable():
    rng = np.random.default_rng(7)
    z = (rng.normal(size=(9, 5)) * 3).astype(np.float32)
    labels = rng.integers(0, 5, 9)
    wide = z.astype(np.float64)
    expected = (np.log(np.exp(wide).sum(1)) - wide[np.arange(9), labels]).sum()
    sparse, dense = losses.SparseCategoricalCrossentropy(), losses.CategoricalCrossentropy()
    grads = np.empty_like(z), np.empty_like(z)
    values = sparse.value(z, labels, grads[0]), dense.value(z, data.to_categorical(labels, 5), grads[1])
    bound = 32 * np.finfo(np.float32).eps * np.abs(z).max() * len(z)
    assert abs(values[0] - expected) <= bound and abs(values[1] - expected) <= bound
    np.testing.assert_allclose(*grads, atol=2 * np.finfo(np.float32).eps)
    right = (z.argmax(1) == labels).sum()
    assert sparse.correct(z, labels) == dense.correct(z, data.to_categorical(labels, 5)) == right
    extreme = np.array([[300.0, -300.0], [-300.0, 300.0]], np.float32)
    assert sparse.value(extreme, np.array([1, 1]), None) == 600.0, "a rounded probability would give infinity"


def test_binary_cross_entropy_is_stable():
    loss = losses.BinaryCrossentropy()
    z, t = np.array([[200.0], [-200.0], [0.0]], np.float32), np.array([[0.0], [0.0], [1.0]], np.float32)
    grad = np.empty_like(z)
    assert abs(loss.value(z, t, grad) - (200 + np.log(2))) < 1e-4
    assert np.array_equal(grad[:, 0], np.array([1, 0, -0.5], np.float32) / 3)
    assert loss.correct(z, t) == 1


@pytest.mark.parametrize(("loss", "labels", "message"), [
    ("sparse_categorical_crossentropy", np.eye(3)[[0, 1]], r'got \(2, 3\): these look one-hot; use loss="categ'),
    ("sparse_categorical_crossentropy", np.array([0, 3]), r"labels are from 0 to 3, but the model has 3 outputs"),
    ("sparse_categorical_crossentropy", np.array([-1, 2]), r"labels are from -1 to 2"),
    ("sparse_categorical_crossentropy", np.array([0.5, 1]), r"fractions such as 0.5"),
    ("categorical_crossentropy", np.array([0, 1]), r'got \(2,\): these look like integer labels; use loss="sparse_c'),
    ("categorical_crossentropy", np.zeros((2, 4)), r"one-hot labels of shape \(n, 3\), got \(2, 4\)"),
    ("categorical_crossentropy", np.ones((2, 3)), r"probabilities with sum 1"),
    ("binary_crossentropy", np.full((2, 3), 2.0), r"labels from 0 to 1, got 2.0 to 2.0"),
    ("mean_squared_error", np.zeros((2, 2)), r"\(n, 3\), got \(2, 2\)"),
])
def test_wrong_labels_are_refused(loss, labels, message):
    with pytest.raises(ValueError, match=message):
        losses.get(loss).check(labels, (3,), np.dtype(np.float32))


def test_labels_of_other_kinds_are_refused():
    with pytest.raises(TypeError, match="labels are numbers"):
        losses.get("mse").check(np.array(["a", "b"]), (1,), np.dtype(np.float32))
    with pytest.raises(ValueError, match="unknown loss 'huber'"):
        losses.get("huber")


def test_a_cross_entropy_needs_its_activation():
    plain = Sequential([layers.Flatten(input_shape=(2, 2, 1)), layers.Dense(3)])
    with pytest.raises(ValueError, match=r'needs a last layer with activation="softmax", dense\w* has "linear"'):
        plain.compile("sgd", "sparse_categorical_crossentropy")
    plain.compile("sgd", losses.SparseCategoricalCrossentropy(from_logits=True))
    soft = Sequential([layers.Flatten(input_shape=(2, 2, 1)), layers.Dense(3, activation="softmax")])
    with pytest.raises(ValueError, match="applies softmax itself"):
        soft.compile("sgd", losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="accuracy has no meaning"):
        plain.compile("sgd", "mse", metrics=["accuracy"])


def test_logits_and_softmax_train_alike():
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(8, 4)).astype(np.float32), rng.integers(0, 3, 8)
    results = []
    for activation, loss in (("softmax", "sparse_categorical_crossentropy"),
                             (None, losses.SparseCategoricalCrossentropy(from_logits=True))):
        model = network(layers.Dense(3, activation=activation), shape=(4,), dtype="float32")
        model.compile("sgd", loss)
        results.append((model.train_on_batch(x, y), model.get_weights()))
    assert results[0][0] == results[1][0] and np.array_equal(results[0][1][0], results[1][1][0])


# ---------------------------------------------------------------------------------------------------------------
# Optimisers against the written formulas

def run(optimizer: optimizers.Optimizer, steps: int = 4, size: int = 40_000, dtype=np.float64):
    rng = np.random.default_rng(9)
    w, gradients = rng.normal(size=size).astype(dtype), [rng.normal(size=size).astype(dtype) for _ in range(steps)]
    start = w.copy()
    optimizer.build(size, np.dtype(dtype))
    for g in gradients:
        optimizer.apply(w, g.copy())
    return start, gradients, w


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a - b).max() <= 64 * EPS * max(1, np.abs(b).max()))


def test_sgd():
    w, gradients, result = run(optimizers.SGD(0.1))
    for g in gradients:
        w = w - 0.1 * g
    assert close(result, w)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_momentum(nesterov):
    w, gradients, result = run(optimizers.SGD(0.1, momentum=0.9, nesterov=nesterov))
    m = 0
    for g in gradients:
        m = 0.9 * m - 0.1 * g
        w = w + 0.9 * m - 0.1 * g if nesterov else w + m
    assert close(result, w)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_rmsprop(momentum):
    w, gradients, result = run(optimizers.RMSprop(0.01, rho=0.95, momentum=momentum, epsilon=1e-6))
    v = m = 0
    for g in gradients:
        v = 0.95 * v + (1 - 0.95) * g ** 2
        m = momentum * m + 0.01 * g / np.sqrt(v + 1e-6)
        w = w - m
    assert close(result, w)


def test_adam():
    w, gradients, result = run(optimizers.Adam(0.01, beta_1=0.8, beta_2=0.99, epsilon=1e-6))
    m = v = 0
    for t, g in enumerate(gradients, 1):
        m = 0.8 * m + (1 - 0.8) * g
        v = 0.99 * v + (1 - 0.99) * g ** 2
        w = w - 0.01 * np.sqrt(1 - 0.99 ** t) / (1 - 0.8 ** t) * m / (np.sqrt(v) + 1e-6)
    assert close(result, w)


def test_defaults_are_those_of_keras():
    configs = {name: cls().get_config() for name, cls in optimizers.OPTIMIZERS.items()}
    assert configs == {
        "sgd": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.0, "nesterov": False},
        "rmsprop": {"name": "rmsprop", "learning_rate": 0.001, "rho": 0.9, "momentum": 0.0, "epsilon": 1e-7},
        "adam": {"name": "adam", "learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}}
    assert layers.Conv2D(1, 1).kernel_initializer == layers.Dense(1).kernel_initializer == "glorot_uniform"


@pytest.mark.parametrize("optimizer", [optimizers.SGD(0.1, 0.9), optimizers.RMSprop(), optimizers.Adam()])
def test_an_update_keeps_float32_and_its_arrays(optimizer):
    _, _, w = run(optimizer, dtype=np.float32)
    assert w.dtype == np.float32 and all(slot.dtype == np.float32 for slot in optimizer.slots.values())


def test_schedules():
    cosine = optimizers.CosineDecay(0.2, 10, alpha=0.1)
    assert cosine(0) == 0.2 and abs(cosine(5) - 0.2 * 0.55) < 1e-15 and abs(cosine(10) - 0.02) < 1e-15
    assert cosine(99) == cosine(10)
    cycle = optimizers.OneCycle(1.0, 100, warmup=0.2, start_div=10, final_div=100)
    assert cycle(0) == 0.1 and cycle(20) == 1.0 and abs(cycle(100) - 0.01) < 1e-15
    assert all(cycle(k) < cycle(k + 1) for k in range(20)) and all(cycle(k) > cycle(k + 1) for k in range(20, 100))
    assert optimizers.ExponentialDecay(1.0, 10, 0.5)(20) == 0.25
    optimizer = optimizers.SGD(cycle)
    optimizer.build(1, np.dtype(np.float64))
    w = np.zeros(1)
    optimizer.apply(w, np.ones(1))
    assert w[0] == -0.1 and optimizer.iterations == 1 and optimizer.current_learning_rate == cycle(1)
    assert vars(optimizers.get(optimizer.get_config()).learning_rate) == vars(cycle)


def test_wrong_optimizers_are_refused():
    with pytest.raises(ValueError, match="unknown optimizer 'lion': one of sgd, rmsprop, adam"):
        optimizers.get("lion")
    for rate in (-1, np.nan):
        with pytest.raises(ValueError, match="finite number >= 0"):
            optimizers.Adam(rate)
    with pytest.raises(ValueError, match=r"momentum is in \[0, 1\)"):
        optimizers.SGD(momentum=1.0)


# ---------------------------------------------------------------------------------------------------------------
# Initial weights and random streams

def test_glorot_uniform_fills_its_interval():
    shape = (3, 3, 16, 64)
    assert fans(shape) == (144, 576)
    values, limit = glorot_uniform(shape, Stream(0)), np.sqrt(6 / 720)
    # 9,216 draws: the variance limit^2/3 within five standard errors
    assert np.abs(values).max() < limit and values.max() > 0.99 * limit and values.min() < -0.99 * limit
    assert abs(values.var() / (limit ** 2 / 3) - 1) < 5 * np.sqrt(0.8 / values.size)
    assert abs(values.mean()) < 5 * limit / np.sqrt(3 * values.size)


def test_biases_start_at_zero():
    assert all(not layer.weights["bias"].any() for layer in mnist_network().layers if layer.weights)


def test_a_seed_fixes_the_weights_and_each_layer_has_its_own():
    a, b, c = mnist_network(0).get_weights(), mnist_network(0).get_weights(), mnist_network(1).get_weights()
    assert all(np.array_equal(p, q) for p, q in zip(a, b))
    assert not any(np.array_equal(p, q) for p, q in zip(a[::2], c[::2]))
    twins = Sequential([layers.Conv2D(2, 3, padding="same", input_shape=(5, 5, 2)), layers.Conv2D(2, 3)], seed=0)
    assert not np.array_equal(twins.get_weights()[0], twins.get_weights()[2])
    assert Sequential().seed != Sequential().seed, "without a seed every model draws its own"
    for wrong, error in ((-1, ValueError), (1.5, TypeError), ("a", TypeError)):
        with pytest.raises(error):
            mnist_network(wrong)


def test_streams_do_not_depend_on_the_numpy_version():
    """The first numbers of two streams, written down: they are made from PCG64's raw output alone."""
    assert Stream(0, 1).permutation(8).tolist() == PERMUTATION
    assert (Stream(7, 0, 2).uniform(3) * 2 ** 20).astype(int).tolist() == UNIFORM
    assert Stream(5).keep(12, 0.5).astype(int).tolist() == KEEP


PERMUTATION = [1, 3, 6, 2, 0, 7, 5, 4]
UNIFORM = [324846, 133036, 469044]
KEEP = [1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 0, 0]


def test_permutations_are_fair():
    stream = Stream(3)
    counts = np.zeros((5, 5))
    for _ in range(2000):
        counts[np.arange(5), stream.permutation(5)] += 1
    # each cell is binomial(2000, 1/5): 400 +- five standard deviations of 17.9
    assert np.abs(counts - 400).max() < 90


def test_a_stream_can_be_continued():
    stream = Stream(11)
    stream.permutation(10)
    state = stream.state
    expected = stream.permutation(100)
    other = Stream(0)
    other.state = state
    assert np.array_equal(other.permutation(100), expected)


# ---------------------------------------------------------------------------------------------------------------
# Wrong structures

@pytest.mark.parametrize(("build", "message"), [
    (lambda: layers.Conv2D(0, 3), "filters is a positive integer, got 0"),
    (lambda: layers.Conv2D(4, (3, 3, 3)), "kernel_size is an integer of at least 1 or a pair of them"),
    (lambda: layers.Conv2D(4, 3, strides=0), "strides is an integer of at least 1"),
    (lambda: layers.Conv2D(4, 3, padding="full"), r'padding is "valid" or "same", got \'full\''),
    (lambda: layers.Conv2D(4, 3, activation="selu"), "unknown activation 'selu': None or one of linear, relu"),
    (lambda: layers.Conv2D(4, 3, kernel_initializer="magic"), "unknown initializer 'magic'"),
    (lambda: layers.Dropout(1.0), "0 <= rate < 1, got 1.0"),
    (lambda: layers.Dense(2.5), "units is a positive integer, got 2.5"),
    (lambda: network(layers.Conv2D(4, 3), shape=(28, 28)), r"got \(None, 28, 28\); the channel axis is missing"),
    (lambda: network(layers.Conv2D(4, 9), shape=(8, 8, 1)), r"a window of 9x9 does not fit the 8x8 input"),
    (lambda: network(layers.MaxPooling2D(3), shape=(2, 5, 1)), r"a window of 3x3 does not fit the 2x5 input"),
    (lambda: network(layers.Conv2D(4, 3, groups=3), shape=(8, 8, 6)), r"6 input channels and 4 filters must both be"),
    (lambda: network(layers.Dense(4), shape=(8, 8, 6)), r"got shape \(None, 8, 8, 6\); put a Flatten layer before it"),
    (lambda: Sequential(dtype="float16"), "dtype is float32 or float64"),
    (lambda: Sequential([layers.ReLU(name="a"), layers.ReLU(name="a")]), "already has a layer named 'a'"),
    (lambda: Sequential().build((None, 3)), "the model has no layers"),
    (lambda: mnist_network().build((None, 32, 32, 1)), r"the model is built for \(None, 28, 28, 1\)"),
    (lambda: mnist_network().get_layer("nine"), "there is no layer 'nine'"),
    (lambda: mnist_network().set_weights([]), "the model has 10 weight arrays, got 0"),
    (lambda: mnist_network().set_weights([w.T for w in mnist_network().get_weights()]), "expects weights of shapes"),
])
def test_wrong_structure_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_what_is_no_layer_is_refused():
    with pytest.raises(TypeError, match=r"expects a layer of fastconv.nn.layers, got int"):
        Sequential([3])
    model = mnist_network()
    with pytest.raises(ValueError, match="already"):
        model.add(model.layers[-1])


def test_set_weights_gives_what_get_weights_gave():
    a, b = mnist_network(0), mnist_network(1)
    b.compile("sgd", "sparse_categorical_crossentropy")
    b.set_weights(a.get_weights())
    assert all(np.array_equal(p, q) for p, q in zip(a.get_weights(), b.get_weights()))
    b.get_weights()[0][:] = 0
    assert a.get_weights()[0].any() and b.get_weights()[0].any(), "they are copies"


def test_shapes_may_come_with_the_data():
    model = Sequential([layers.Conv2D(2, 3, activation="relu"), layers.Flatten(), layers.Dense(3)], seed=1)
    assert not model.built
    assert model.predict(np.zeros((4, 6, 6, 1), np.float32)).shape == (4, 3)
    known = Sequential([layers.Conv2D(2, 3, activation="relu", input_shape=(6, 6, 1)), layers.Flatten(),
                        layers.Dense(3)], seed=1)
    assert all(np.array_equal(p, q) for p, q in zip(model.get_weights(), known.get_weights()))
