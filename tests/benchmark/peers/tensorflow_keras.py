"""Xception in Keras on TensorFlow: tf.function, channels last, mixed_bfloat16."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from tensorflow.keras import layers

from tests.benchmark.peers import worker


def xception(filters, size):
    """The network. 'same' padding gives the outputs of symbol_xception's paddings their shapes and
    costs what they do; the pixels at two borders differ."""

    def norm(x):
        return layers.BatchNormalization(epsilon=worker.BN_EPS, momentum=worker.BN_MOMENTUM)(x)

    def conv_norm(x, channels, kernel=1, stride=1):
        return norm(layers.Conv2D(channels, kernel, stride, "same", use_bias=False)(x))

    def separable(x, channels):
        return norm(layers.SeparableConv2D(channels, 3, padding="same", use_bias=False)(x))

    def residual(x, num_filters, relu_first=True, downsample=False):
        shortcut = conv_norm(x, num_filters[-1], stride=2) if downsample else x
        for i, channels in enumerate(num_filters):
            if relu_first or i:
                x = layers.ReLU()(x)
            x = separable(x, channels)
        if downsample:
            x = layers.MaxPooling2D(3, 2, "same")(x)
        return layers.add([x, shortcut])

    f0, f1, f2, f3, f4, f5, f6 = filters
    images = layers.Input((size, size, 3))
    x = layers.ReLU()(conv_norm(images, f0 // 2, 3, 2))
    x = layers.ReLU()(conv_norm(x, f0, 3))
    x = residual(x, (f1, f1), relu_first=False, downsample=True)
    x = residual(x, (f2, f2), downsample=True)
    x = residual(x, (f3, f3), downsample=True)
    for _ in range(8):
        x = residual(x, (f3, f3, f3))
    x = residual(x, (f3, f4), downsample=True)
    x = layers.ReLU()(separable(x, f5))
    x = layers.ReLU()(separable(x, f6))
    x = layers.Dropout(worker.DROPOUT)(layers.GlobalAveragePooling2D()(x))
    x = layers.Dense(worker.NUM_CLASSES)(x)
    return tf.keras.Model(images, layers.Activation("softmax", dtype="float32")(x))


def main():
    args = worker.arguments()
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    if args.dtype == "bfloat16":
        tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = xception(args.filters, args.size)
    images = tf.random.uniform((args.batch, args.size, args.size, 3), 0, 255)
    labels = tf.random.uniform((args.batch,), 0, worker.NUM_CLASSES, tf.int32)
    optimizer = tf.keras.optimizers.SGD(
        worker.LEARNING_RATE, worker.MOMENTUM, nesterov=True, weight_decay=worker.WEIGHT_DECAY
    )

    @tf.function
    def train():
        with tf.GradientTape() as tape:
            output = model(images, training=True)
            loss = tf.reduce_mean(tf.keras.losses.sparse_categorical_crossentropy(labels, output))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    @tf.function
    def infer():
        return model(images, training=False)

    run = train if args.mode == "training" else infer
    # .numpy() waits for the result.
    worker.report(lambda: run().numpy(), args.seconds)


if __name__ == "__main__":
    main()
