"""Xception in PyTorch: channels last, autocast to bfloat16, eager or compiled."""

import torch
from torch import nn
from torch.nn import functional

from tests.benchmark.peers import worker


class ConvNorm(nn.Sequential):
    def __init__(self, in_channels, channels, kernel=1, stride=1):
        super().__init__(
            nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False),
            norm(channels),
        )


class Separable(nn.Sequential):
    def __init__(self, in_channels, channels):
        super().__init__(
            nn.Conv2d(in_channels, in_channels, 3, 1, 1, groups=in_channels, bias=False),
            nn.Conv2d(in_channels, channels, 1, bias=False),
            norm(channels),
        )


def norm(channels):
    # PyTorch's momentum is the weight of the new value.
    return nn.BatchNorm2d(channels, worker.BN_EPS, 1 - worker.BN_MOMENTUM)


class Residual(nn.Module):
    def __init__(self, in_channels, num_filters, relu_first=True, downsample=False):
        super().__init__()
        shortcut = nn.Identity()
        layers = []
        if downsample:
            shortcut = ConvNorm(in_channels, num_filters[-1], stride=2)
        for i, channels in enumerate(num_filters):
            if relu_first or i:
                # Never in place: the first one's input is the shortcut's too.
                layers.append(nn.ReLU())
            layers.append(Separable(in_channels, channels))
            in_channels = channels
        if downsample:
            layers.append(nn.MaxPool2d(3, 2, 1))
        self.shortcut, self.layers = shortcut, nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x) + self.shortcut(x)


def xception(filters):
    f0, f1, f2, f3, f4, f5, f6 = filters
    return nn.Sequential(
        *(ConvNorm(3, f0 // 2, 3, 2), nn.ReLU()),
        *(ConvNorm(f0 // 2, f0, 3), nn.ReLU()),
        Residual(f0, (f1, f1), relu_first=False, downsample=True),
        Residual(f1, (f2, f2), downsample=True),
        Residual(f2, (f3, f3), downsample=True),
        *(Residual(f3, (f3, f3, f3)) for _ in range(8)),
        Residual(f3, (f3, f4), downsample=True),
        *(Separable(f4, f5), nn.ReLU()),
        *(Separable(f5, f6), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(worker.DROPOUT)),
        nn.Linear(f6, worker.NUM_CLASSES),
    )


def main():
    args = worker.arguments(variants=("eager", "compiled"))
    torch.set_num_threads(args.threads)
    half = args.dtype == "bfloat16"
    model = xception(args.filters).to(memory_format=torch.channels_last)
    images = torch.rand(args.batch, 3, args.size, args.size) * 255
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(worker.NUM_CLASSES, (args.batch,))

    if args.mode == "training":
        optimizer = torch.optim.SGD(
            model.parameters(),
            worker.LEARNING_RATE,
            worker.MOMENTUM,
            weight_decay=worker.WEIGHT_DECAY,
            nesterov=True,
        )

        def loss_of(images, labels):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                output = model(images)
            return functional.cross_entropy(output.float(), labels)

        loss_of = compiled(loss_of, args)

        def step():
            optimizer.zero_grad()
            loss_of(images, labels).backward()
            optimizer.step()

        worker.report(step, args.seconds)
        return

    model.eval()
    if half:
        # Faster than autocast, which casts the weights at every step.
        model, images = model.bfloat16(), images.bfloat16()
    with torch.inference_mode() if args.variant == "eager" else torch.no_grad():
        network = compiled(lambda images: model(images).float().softmax(1), args)
        worker.report(lambda: network(images), args.seconds)


def compiled(function, args):
    if args.variant == "eager":
        return function
    import torch._inductor.config

    # Folds BatchNorm into the weights and has oneDNN keep these in its own layouts.
    torch._inductor.config.freezing = args.mode == "inference"
    return torch.compile(function)


if __name__ == "__main__":
    main()
