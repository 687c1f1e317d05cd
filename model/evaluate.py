"""Scores of a network on labelled images."""

import mxnet as mx

#: The figures of a run: top-1 accuracy, top-5 where there are more than 5 classes, cross-entropy.
TOP_K = 5


def new_metric(num_classes: int) -> mx.metric.CompositeEvalMetric:
    """Return the metric that training and validation report."""
    metrics = [mx.metric.Accuracy()]
    if num_classes > TOP_K:
        metrics.append(mx.metric.TopKAccuracy(top_k=TOP_K))
    return mx.metric.CompositeEvalMetric([*metrics, mx.metric.CrossEntropy()])


def evaluate(module: mx.mod.Module, images: mx.io.DataIter, metric, stop=lambda: False) -> list:
    """Return [(name, value)] of `metric` over `images`, each counted once; None once `stop()`.

    The repetitions that fill up the last batch (`batch.pad`) are computed and not counted.
    """
    metric.reset()
    images.reset()
    for batch in images:
        if stop():
            return None
        module.forward(batch, is_train=False)
        valid = images.batch_size - batch.pad
        (probabilities,) = module.get_outputs()
        metric.update([batch.label[0][:valid]], [probabilities[:valid]])
    return metric.get_name_value()
