"""Writes docs/results.md, "How good is it?": ten lines, whose numbers come from result files.

python benchmarks/how_good.py
"""

import json
from pathlib import Path
from typing import Any

import compare_backbones
import comparison_page
import guidance
from guided_tasks import TASKS

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "results.md"


def read(name: str) -> Any:
    """A result file."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def best(name: str, metric: str) -> str:
    """The best epoch of a training run, in per cent."""
    epochs = read(f"training/{name}.json")["epochs"]
    return f"{max(epoch[metric] for epoch in epochs if metric in epoch):.1%}"


def pretrained() -> str:
    """Says what the weights that ship can do."""
    ours, teacher, start = (
        read(f"pretraining/{name}_144.json") for name in ("sgformer_t", "tf_efficientnet_lite0", "random")
    )
    return (
        f"*The weights that ship are to start from.* Logistic regression on frozen features of `sgformer_t` reaches "
        f"{ours['probe']['mean']:.1%} in the mean of three small sets, on those of its teacher "
        f"{teacher['probe']['mean']:.1%}, and with initial values {start['probe']['mean']:.1%}. As a classifier of "
        f"1,000 classes it is poor: top-1 {ours['photos1000']['top1']:.1%} where the teacher has "
        f"{teacher['photos1000']['top1']:.1%}. [Pretraining](pretraining.md)"
    )


def trained() -> str:
    """Says what single training runs reached."""
    return (
        "*It learns small tasks*, in single runs with one seed: Imagenette from nothing "
        f"{best('imagenette160_sgformer_t_cpu2_seed0', 'val_top1')} top-1 ([Training](training.md)); CamVid "
        f"{best('camvid_sgformer_t_cpu_seed0', 'val_miou')} mIoU from pretrained weights and "
        f"{best('camvid_scratch_sgformer_t_cpu_seed0', 'val_miou')} from nothing ([Segmentation](segmentation.md)); "
        f"nuclei {best('nuclei_sgformer_t_cpu_seed0', 'val_mask_ap')} mask AP ([Detection](detection.md))."
    )


def beside_others() -> str:
    """Says how the model stands beside others, from nothing."""
    num = sum(run.result.is_file() for run in compare_backbones.planned())
    stands = [
        f"{table.title}: {said}"
        for name, table in compare_backbones.TABLES.items()
        if (said := comparison_page.standing(name))
    ]
    return (
        f"*Beside other backbones of like cost*, from nothing, {num} runs of one or two seeds. "
        f"{' '.join(stands)} [Beside other backbones](comparison.md)"
    )


def guided() -> list[str]:
    """Says what guidance was worth, to models that were trained with it and to weights that were not."""
    lines = []
    for name, task in TASKS.items():
        worth = {merging: guidance.worth(name, merging) for merging in ("ranking", "regions")}
        said = [f"{value} where keys are merged by {merging}" for merging, value in worth.items() if value is not None]
        if said:
            lines.append(
                f"*Guidance, trained anew: {task.title}*. Significance less a uniform order, "
                f"{task.shown[task.metric]}: {'; '.join(said)}."
            )
    if not lines:
        lines.append("*What guidance is worth to models trained anew is not shown*: no run is done.")
    lines[-1] += " [Significance](significance.md)"
    if (RESULTS / "guidance_frozen.json").is_file():
        rows = [row for row in read("guidance_frozen.json") if row["merging"] == "ranking"]
        of_even = [row for row in rows if row["order"] == "uniform"]
        of_even.sort(key=lambda row: row["top1_less_first"])
        worst, greatest = of_even[0], of_even[-1]

        def said(row: dict[str, Any]) -> str:
            where = f"{row['size']} pixels, budget {row['budget'] or 'none'}"
            return f"{100 * row['top1_less_first']:+.1f} ± {100 * row['top1_error']:.1f} points ({where})"

        between = f"between {said(worst)} and {said(greatest)}" if len(of_even) > 1 else said(worst)
        lines.append(
            "*To the weights that ship*, an even order instead of significance changes top-1 on Imagenette by "
            f"{between}. [Significance](significance.md)"
        )
    return lines


def merging() -> str:
    """Says what merging loses."""
    result = read("significance/merging_sgformer_t_imagenette160_val_144.json")
    found = {(row["stage"], row["way"]): row for row in result["rows"] if row["budget"] == "none"}
    parts = [
        f"{found[stage, 'ranking, significance']['output_error']:.2f} by rank and "
        f"{found[stage, 'regions, sum of significance']['output_error']:.2f} by place in {stage}"
        for stage in ("stage 1", "stage 2", "stage 3")
    ]
    return (
        f"*Merging by place keeps more than merging by rank*, before any training for it: the error of an attention's "
        f"output is {', '.join(parts)}. Where squares are small hardly matters there. [Significance](significance.md)"
    )


def main() -> None:
    lines = [
        "*The numbers of the released model are met*: logits, stage outputs and significance of stored cases to 1e-9 "
        "in float64, S, M and B ([Architecture](architecture.md)).",
        "*The paper's accuracies on ImageNet, COCO and ADE20K were not reproduced.* Nothing was trained at that size.",
        trained(),
        pretrained(),
        beside_others(),
        *guided(),
        merging(),
        "*Speed* was measured beside Swin-T and ConvNeXt-T on two cores, and on a GPU for minutes: with a budget in "
        "large images faster than both, unless the C library keeps freed memory: then level with Swin-T and behind "
        "ConvNeXt-T. Level or slower otherwise. [Speed and memory](benchmarks.md)",
    ]
    head = "# How good is it?\n\nWhat was shown and what was not. `python benchmarks/how_good.py` reads every number"
    text = f"{head} from a\nresult file.\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
