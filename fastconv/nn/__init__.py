"""fastconv.nn: a thin training loop over fastconv's convolutions, NHWC, with the names of Keras.

layers.py        the layers: shapes, weights, forward and backward
device.py        where the arrays are: NumPy, or one GPU    activations.py  those that no kernel has fused
initializers.py  initial weights            seeding.py    random streams fixed by one seed
losses.py        losses on logits           optimizers.py updates and learning-rate schedules
models.py        Sequential                 training.py   the loops of fit, evaluate, predict
feeding.py       checks and batches         progress.py   bars and lines
callbacks.py     callbacks and History      profiling.py  time per layer     kernels.py  kernels asked for and run
summary.py       the table of a model       saving.py     one file per model
augment.py       images changed at random, batches made ahead
data.py          MNIST from files, the data folder, a download, or the digits that ship with the package
networks.py      mnist_network              train.py      the command `fastconv train`
"""
from . import augment, callbacks, data, layers, losses, models, optimizers
from .models import Sequential, load_model
from .networks import mnist_network

__all__ = ["Sequential", "augment", "callbacks", "data", "layers", "load_model", "losses", "mnist_network", "models",
           "optimizers"]
