# ruff: noqa: E501  a row a line
"""What other people's tools make of the backbone: `python benchmarks/ecosystem.py [NAME...]`.

Each row is a line that a user would write. It is run with the packages that are installed here; rows of packages that
are not are left as they stand, so that packages which want other versions of each other are run one environment after
another. Results go to `benchmarks/results/ecosystem.json`, and the table in docs/ecosystem.md is written from it.
Nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

from pages import markdown

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "ecosystem.json"
PAGE = ROOT / "docs" / "ecosystem.md"
START, END = "<!-- written by benchmarks/ecosystem.py -->\n", "<!-- until here -->\n"


@dataclass(frozen=True)
class Row:
    """One tool.

    Attributes:
        name: as the table shows it.
        package: as pip installs it.
        line: what a user writes. `model` is `sgformer_test` with 3 classes, `x` two images of 64x96, `backbone` a
            `TimmBackboneConfig`, `folder` an empty folder; `before` has run.
        before: imports and objects, such as small sizes of a head, that the table leaves out.
        seen: an expression; its value stands in the table.
    """

    name: str
    package: str
    line: str
    before: str = ""
    seen: str = ""


HEADS = """
import transformers
from transformers import *
backbone = TimmBackboneConfig(backbone="sgformer_test", use_pretrained_backbone=False, out_indices=[0, 1, 2, 3])
small = dict(num_labels=3, d_model=32, encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=4,
             decoder_attention_heads=4, decoder_layers=1, num_queries=10)
"""
PYRAMID = """
from torchvision.models.detection import *
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork
class Pyramid(torch.nn.Module):
    out_channels = 32
    def __init__(self):
        super().__init__()
        self.body = timm.create_model("sgformer_test", features_only=True)
        self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels(), 32)
    def forward(self, x):
        return self.fpn({str(i): maps for i, maps in enumerate(self.body(x))})
pyramid, size = Pyramid(), dict(min_size=64, max_size=96)
sizes = tuple((s,) for s in (16, 32, 64, 128))
many, one = (AnchorGenerator(sizes, (ratios,) * 4) for ratios in ((0.5, 1.0, 2.0), (1.0,)))
"""
FOUND = "sorted(detector.eval()([torch.rand(3, 64, 96)])[0])"
SEGMENT = "import segmentation_models_pytorch as smp"
MASKS = "tuple(m.eval()(x).shape)"
S = 'model, x = timm.create_model("sgformer_s").eval(), torch.randn(1, 3, 224, 224)\n'
IMAGES = """
import lightly_train, numpy
from PIL import Image
from pathlib import Path
images = Path(folder, "images"); images.mkdir()
for i in range(8):
    Image.fromarray(numpy.random.default_rng(i).integers(0, 255, (64, 64, 3)).astype("uint8")).save(images / f"{i}.png")
options = dict(out=folder + "/out", data=str(images), method="simclr", epochs=1, batch_size=4, num_workers=0,
               accelerator="cpu", transform_args={"image_size": (64, 64)}, precision="32-true")
"""
ROWS = [
    *(Row(f"a folder, after `{call}`", "timm", "timm.models.save_for_hf(model, folder, safe_serialization=True); m = timm.create_model('local-dir:' + folder, pretrained=True)",
          f"model = timm.create_model('sgformer_test', num_classes=3).eval(); model.{call}; x = torch.randn(1, 3, *model.pretrained_cfg['input_size'][1:])",
          "f'logits differ by {(m.eval()(x) - model(x)).abs().max().item():.1e}, budget {m.token_budget}'")
      for call in ("set_input_size((128, 160))", "set_token_budget(64)")),
    Row("Mask2Former", "transformers", "m = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=backbone, **small))",
        HEADS + "small = dict(num_labels=3, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_layers=1, decoder_layers=2, encoder_feedforward_dim=32, dim_feedforward=32, num_attention_heads=4, num_queries=5)",
        "tuple(m(x).masks_queries_logits.shape)"),
    Row("UPerNet", "transformers", "m = UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, auxiliary_in_channels=48, **small))",
        HEADS + "small = dict(num_labels=3, hidden_size=32, auxiliary_channels=16)", "tuple(m.eval()(x).logits.shape)"),
    Row("RT-DETR", "transformers", "m = RTDetrForObjectDetection(RTDetrConfig(backbone_config=backbone, encoder_in_channels=[32, 48, 64], **small))",
        HEADS + "backbone.out_indices = [1, 2, 3]; small |= dict(encoder_hidden_dim=32, decoder_in_channels=[32] * 3)",
        "tuple(m.eval()(x).pred_boxes.shape)"),
    Row("DETR", "transformers", "m = DetrForObjectDetection(DetrConfig(backbone_config=backbone, use_timm_backbone=False, **small))",
        HEADS + "backbone.out_indices = [3]; small['encoder_layers'] = 1", "tuple(m.eval()(x).pred_boxes.shape)"),
    Row("a folder of timm's", "transformers", "m = AutoModelForImageClassification.from_pretrained(folder)",
        HEADS + "timm.models.save_for_hf(model, folder, safe_serialization=True)", "tuple(m(x).logits.shape)"),
    Row("the same without `num_classes` in `model_args`", "transformers", "m = AutoModelForImageClassification.from_pretrained(folder)",
        HEADS + """
import json
timm.models.save_for_hf(model, folder, safe_serialization=True)
config = json.load(open(folder + "/config.json")); del config["model_args"]["num_classes"]
json.dump(config, open(folder + "/config.json", "w"))""", "tuple(m(x).logits.shape)"),
    *(Row(head, "segmentation-models-pytorch", f'm = smp.{head}("tu-sgformer_test", encoder_weights=None, classes=3)', SEGMENT, MASKS)
      for head in ("Unet", "UnetPlusPlus", "FPN", "UPerNet", "PSPNet", "Linknet", "MAnet", "Segformer", "DPT", "DeepLabV3", "PAN")),
    Row("Faster R-CNN", "torchvision", "detector = FasterRCNN(pyramid, num_classes=3, rpn_anchor_generator=many, **size)", PYRAMID, FOUND),
    Row("RetinaNet", "torchvision", "detector = RetinaNet(pyramid, num_classes=3, anchor_generator=many, **size)", PYRAMID, FOUND),
    Row("FCOS", "torchvision", "detector = FCOS(pyramid, num_classes=3, anchor_generator=one, **size)", PYRAMID, FOUND),
    Row("feature extractor", "torchvision", 'm = create_feature_extractor(model, ["stages.1", "stages.3"])',
        "from torchvision.models.feature_extraction import create_feature_extractor", "{name: tuple(y.shape) for name, y in m(x).items()}"),
    Row("EfficientDet", "effdet", "m = effdet.EfficientDet(config, pretrained_backbone=False)", """
import effdet
config = effdet.get_efficientdet_config("tf_efficientdet_d0")
config.backbone_name, config.backbone_args, config.backbone_indices = "sgformer_test", {}, (1, 2, 3)
config.image_size = 128, 128""", "[tuple(y.shape[-2:]) for y in m.eval()(torch.randn(1, 3, 128, 128))[0]]"),
    Row("integrated gradients, black baseline", "captum", "_, gap = IntegratedGradients(model).attribute(x[:1], target=0, n_steps=64, return_convergence_delta=True)",
        "from captum.attr import IntegratedGradients; model, x = model.double(), x.double()", "f'does not add up by {gap.abs().item():.1e}'"),
    Row("integrated gradients, noise as baseline", "captum", "_, gap = IntegratedGradients(model).attribute(x[:1], baselines=noise, target=0, n_steps=64, return_convergence_delta=True)",
        "from captum.attr import IntegratedGradients; model, x = model.double(), x.double(); noise = 0.1 * torch.randn_like(x[:1])", "f'adds up to {gap.abs().item():.1e}'"),
    Row("Grad-CAM", "captum", "m = LayerGradCam(model, model.stages[2]).attribute(x, target=0)", "from captum.attr import LayerGradCam", "tuple(m.shape)"),
    Row("LoRA", "peft", 'm = get_peft_model(model, LoraConfig(target_modules="all-linear", modules_to_save=["head.fc"]))',
        "from peft import LoraConfig, get_peft_model", """(m.train()(x).square().sum().backward(), "adapters without a gradient: "
+ str(sum(p.grad is None for n, p in m.named_parameters() if p.requires_grad and "lora" in n)))[1]"""),
    Row("int8 weights", "torchao", "quantize_(model, Int8WeightOnlyConfig())", "from torchao.quantization import Int8WeightOnlyConfig, quantize_; y = model(x)", "f'logits move by {(model(x) - y).abs().max().item():.1e}'"),
    Row("dynamic int8", "torch", "m = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})", "y = model(x)", "f'logits move by {(m(x) - y).abs().max().item():.1e}'"),
    Row("post-training int8", "nncf", "m = nncf.quantize(model, nncf.Dataset([x[:1]]), model_type=nncf.ModelType.TRANSFORMER)", "import nncf; y = model(x[:1])", "f'logits move by {(m(x[:1]) - y).abs().max().item():.1e}'"),
    Row("PaDiM", "anomalib", 'm = PadimModel(backbone="sgformer_test", layers=["stages.0", "stages.1", "stages.2"], pre_trained=False, n_features=20)',
        "from anomalib.models.image.padim.torch_model import PadimModel", "(m.train()(x), m(x), m.fit(), tuple(m.eval()(x).pred_score.shape))[3]"),
    Row("pretraining, by name", "lightly-train", 'lightly_train.pretrain(model="timm/sgformer_test", **options)', IMAGES, "Path(folder, 'out/exported_models/exported_last.pt').is_file()"),
    Row("pretraining, an instance", "lightly-train", "lightly_train.pretrain(model=model, **options)", IMAGES),
    Row("a backbone of one's own", "rfdetr", 'RFDETRBaseConfig(encoder="sgformer_test")', "from rfdetr.config import RFDETRBaseConfig"),
    Row("a timm model in a YAML", "ultralytics", 'DetectionModel({"nc": 3, "backbone": [[-1, 1, "TorchVision", [64, "sgformer_test", None, True, 2, True]]], "head": [[-1, 1, "Detect", ["nc"]]]})',
        "from ultralytics.nn.tasks import DetectionModel"),
    Row("MACs: flop_counter", "torch", "with FlopCounterMode(display=False) as counter: model(x)", S + "from torch.utils.flop_counter import FlopCounterMode; torch.set_grad_enabled(False)", "f'{counter.get_total_flops() / 2e9:.2f} GMACs'"),
    Row("MACs: fvcore", "fvcore", "macs = FlopCountAnalysis(model, x).total()", S + "from fvcore.nn import FlopCountAnalysis", "f'{macs / 1e9:.2f} GMACs'"),
    Row("MACs: ptflops", "ptflops", "macs, _ = get_model_complexity_info(model, (3, 224, 224), as_strings=False)", S + "from ptflops import get_model_complexity_info", "f'{macs / 1e9:.2f} GMACs'"),
    Row("MACs: ptflops, its other way", "ptflops", 'macs, _ = get_model_complexity_info(model, (3, 224, 224), as_strings=False, backend="aten")', S + "from ptflops import get_model_complexity_info", "f'{macs / 1e9:.2f} GMACs'"),
    Row("MACs: torchinfo", "torchinfo", "macs = torchinfo.summary(model, (1, 3, 224, 224)).total_mult_adds", S + "import torchinfo", "f'{macs / 1e9:.2f} GMACs'"),
    Row("MACs: calflops", "calflops", "_, macs, _ = calculate_flops(model, (1, 3, 224, 224), output_as_string=False)", S + "from calflops import calculate_flops", "f'{macs / 1e9:.2f} GMACs'"),
]  # fmt: skip


def run(row: Row) -> dict[str, str | bool]:
    """Runs a row; whether its line ran, and what was seen or said."""
    import timm
    import torch

    import sgformer  # noqa: F401  registers the models

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        model = timm.create_model("sgformer_test", num_classes=3).eval()
        space = {"torch": torch, "timm": timm, "x": torch.randn(2, 3, 64, 96), "folder": folder, "model": model}
        try:
            exec(row.before, space)
            exec(row.line, space)
            seen, runs = str(eval(row.seen, space)) if row.seen else "", True
        except Exception as error:
            traceback.print_exc()
            seen, runs = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}", False
        torch.set_grad_enabled(True)
    return {"version": importlib.metadata.version(row.package), "runs": runs, "seen": seen}


def table(results: dict[str, dict]) -> str:
    """The table of the page, from what was run."""
    lines = []
    for row in ROWS:
        if (found := results.get(f"{row.package}: {row.name}")) is not None:
            package, runs = f"{row.package} {found['version']}", "runs" if found["runs"] else "**fails**"
            lines.append((package, row.name, runs, f"`{row.line}`", found["seen"].replace("|", r"\|")))
    return markdown(("package", "what", "outcome", "line", "seen"), lines)


def main(names: list[str]) -> None:
    """Runs the rows whose package is named, or all that can run here, and writes file and page."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "LIGHTLY_TRAIN_EVENTS_DISABLED": "1", "NNCF_EXTENSION_LOAD_TIMEOUT": "0"}
    warnings.filterwarnings("ignore")
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for row in ROWS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(row.package)
            if not names or row.package in names:
                key = f"{row.package}: {row.name}"
                results[key] = run(row)
                print(key, results[key])
                RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    PAGE.write_text(head + START + "\n" + table(results) + "\n" + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
