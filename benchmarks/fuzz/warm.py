"""Imports that inputs need, made once before processes are forked; no thread may be started here."""

import importlib

import lightrail.sweeps.trials.preloaded  # noqa: F401 - what trials need, without threads

for _name in (
    *("compare", "demo", "export", "fit", "generate", "list", "predict", "reproduce", "resume", "sweep", "sync"),
):
    importlib.import_module(f"lightrail.project.commands.{_name}")
for _name in (
    *(
        "lightrail.sweeps.command",
        "lightrail.lightning_modules.transfer.exported",
        "lightrail.project.models.generating",
    ),
    *("lightrail.project.comparing.comparison", "lightrail.project.exporting.writing", "tests.support.pretrained"),
    *("lightrail.datamodules.text_classification", "lightrail.lightning_modules.text_classification"),
    *("lightrail.datamodules.entities", "lightrail.lightning_modules.entities"),
    *("lightrail.datamodules.pinyin", "lightrail.lightning_modules.pinyin.tagger"),
    *("lightrail.datamodules.image_classification", "lightrail.lightning_modules.image_classification"),
    *("lightrail.datamodules.causal_lm", "lightrail.lightning_modules.causal_lm"),
    *("lightrail.lightning_modules.networks.decoders.pretrained_decoder", "datasets", "optuna.storages"),
    *("transformers.models.bert.modeling_bert", "transformers.models.gpt2.modeling_gpt2", "safetensors.torch"),
):
    importlib.import_module(_name)
