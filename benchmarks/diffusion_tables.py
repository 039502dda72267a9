"""The section of docs/RESULTS.md that `benchmarks.diffusion` makes."""

from collections.abc import Mapping
from typing import Any

from benchmarks.pages import markdown_table

HEADING = "## Generated images: diffusion"
MEANING = """\
Made by `python -m benchmarks.diffusion --page docs/RESULTS.md`. Which training images did a generated one come from?
Unlearned is a generated image (DDIM, 25 steps); every training image is scored by what its loss rises.
LDS: how well summed scores of random halves of the images order the losses of networks trained on them (1 is perfect).
Rise: by how much the generated image's loss rises when the method's best 5 % are left out of the training, against
leaving out as many random ones. Losses of the truth are taken at 64 timesteps with noise that no method saw.
What follows from it: docs/DIFFUSION.md."""


def as_markdown(found: Mapping[str, Any]) -> str:
    size, removal = found["size"], found["removal"]
    rises = removal["rise_percent"]
    methods = [
        [name, _with_interval(lds, 2), _with_interval(rises[name], 1) if name in rises else "", f"{seconds:.1f}"]
        for name, lds, seconds in ((name, lds, found["seconds_to_score"][name]) for name, lds in found["lds"].items())
    ]
    planted = (
        [network, name, *(f"{each[key]:.2f}" for key in ("recall_at_6", "recall_at_20")), f"{each['seconds']:.1f}"]
        for network, by_name in found["planted"].items()
        for name, each in by_name.items()
    )
    first, last = (f"recall@{most} of {size['rows_per_mark']}" for most in (6, 20))
    return "\n\n".join(
        [
            HEADING,
            MEANING,
            f"Truth by retraining ({found['parameters']['residual']:,} parameters, {size['num_rows']:,} images). "
            f"LDS: {size['num_halves']} halves, {size['num_queries']} generated images. Removal: {size['num_removed']} "
            f"images, {size['num_removal_queries']} generated images, {size['num_seeds']} seed(s), against "
            f"{size['num_random_sets']} random sets (their spread: {removal['spread_of_random_sets_percent']:.1f} %). "
            "Means with 95 % intervals over the generated images (which share the trainings):",
            "\n".join(markdown_table(["method", "LDS", "rise of the loss, %", "CPU seconds"], methods)),
            f"Planted marks ({size['num_marks']} marks, {size['rows_per_mark']} images each; unet: "
            f"{found['parameters']['unet']:,} parameters):",
            "\n".join(markdown_table(["network", "method", first, last, "CPU seconds"], planted)),
            f"{found['date']}; {found['cpu_seconds'] / 60:.0f} minutes of one core, "
            "without the training of networks that the folder held.",
        ]
    )


def _with_interval(value: Mapping[str, float], digits: int) -> str:
    mean, low, high = (f"{value[key]:.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"
