"""Networks of the image benchmarks, for `model.factory`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 10


class Block(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm and a way round them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        is_same = inputs == outputs and stride == 1
        self.shortcut: nn.Module = nn.Identity() if is_same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, hidden_BCHW: Tensor) -> Tensor:
        inner = F.relu(self.first_norm(self.first(hidden_BCHW)))
        return F.relu(self.second_norm(self.second(inner)) + self.shortcut(hidden_BCHW))


class ResNet18(nn.Module):
    """Four stages of two blocks (He et al. 2016, arXiv:1512.03385), for small images of one channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.stem = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.blocks = nn.ModuleList(
            Block(widths[stage + place], widths[stage + 1], 2 if stage > 0 and place == 0 else 1)
            for stage in range(4)
            for place in range(2)
        )
        self.head = nn.Linear(widths[-1], CLASSES)

    def features(self, images_BCHW: Tensor) -> Tensor:
        """(B, D): what the last layer reads."""
        hidden = F.relu(self.stem_norm(self.stem(images_BCHW)))
        for block in self.blocks:
            hidden = block(hidden)
        return hidden.mean((2, 3))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images_BCHW))
        return logits


def small() -> ResNet18:
    return ResNet18(8)  # 0.18 M parameters: for a CPU


def full() -> ResNet18:
    return ResNet18(64)  # 11 M: for a GPU


def train(network: nn.Module, images_NCHW: Tensor, labels_N: Tensor, epochs: int, seed: int) -> nn.Module:
    """AdamW with a one-cycle rate and no augmentation: the network shall remember its images."""
    torch.manual_seed(seed)
    batch_rows, device = 64, next(network.parameters()).device
    steps = epochs * -(-len(labels_N) // batch_rows)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    network.train()
    for _ in range(epochs):
        for rows_B in torch.randperm(len(labels_N)).split(batch_rows):
            optimizer.zero_grad()
            logits_BC = network(images_NCHW[rows_B].to(device))
            F.cross_entropy(logits_BC, labels_N[rows_B].to(device)).backward()
            optimizer.step()
            schedule.step()
    return network.eval()
