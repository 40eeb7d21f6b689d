"""Standalone script, without imports from Prelude: check that an exported folder loads and is the same model.

    python -I fresh_process.py FOLDER CHECK

`CHECK` is a safetensors file with a batch (`batch.*`), a mask of its `real` tokens, the hidden states of each
layer (`hidden.STACK.NUMBER`), the `logits` if there is a head and, for models that generate text, a `prompt`
and the expected continuation (`written`). `question.json` next to it names the class, the folder of an
adapter to add, if any, and contains pairs of a text and its ids. The script prints a JSON object: the
relative error of the logits, the first layer that differs, and other differences.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(folder: str, check: str) -> None:
    """Load the folder, compare the model, and print the differences."""
    import torch
    import transformers
    from safetensors.torch import load_file

    question = json.loads((Path(check).parent / "question.json").read_text(encoding="utf-8"))
    source = {"gguf_file": question["gguf"]} if question["gguf"] else {}
    kind = getattr(transformers, question["architecture"])
    model, report = kind.from_pretrained(folder, dtype=torch.float64, output_loading_info=True, **source)
    model.eval()
    if question["adapter"]:
        add_adapter(model, Path(question["adapter"]))
    saved = load_file(check)
    batch = {name.removeprefix("batch."): value for name, value in saved.items() if name.startswith("batch.")}
    real = saved["real"]
    with torch.no_grad():
        outputs = model(**batch, output_hidden_states=True)
    errors = {
        name: error(state[real], saved[f"hidden.{name}"]) for name, state in states(outputs, saved).items()
    }
    result: dict[str, Any] = {
        "error": error(outputs.logits[real], saved["logits"]) if "logits" in saved else max(errors.values()),
        "differs": next((name for name, each in errors.items() if not each < question["tolerance"]), None),
        "missing": sorted(report["missing_keys"]),
        "surplus": sorted(report["unexpected_keys"]),
        "texts": [],
        "written": True,
    }
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **source)
    for text, ids in question["texts"]:
        if tokenizer(text, add_special_tokens=False)["input_ids"] != ids:
            result["texts"].append(text)
    if "written" in saved:
        prompt, expected = saved["prompt"], saved["written"].tolist()
        answer = model.generate(prompt, max_new_tokens=max(len(expected), 1), do_sample=False)[0].tolist()
        before = 1 if model.config.is_encoder_decoder else prompt.shape[1]
        result["written"] = answer[before : before + len(expected)] == expected
    print(json.dumps(result))


def add_adapter(model: Any, folder: Path) -> None:
    """Add the products of an adapter's matrices to the weights, as `peft` does when it merges them."""
    from safetensors.torch import load_file
    from transformers.pytorch_utils import Conv1D

    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "adapter_model.safetensors")
    for name in [name for name in tensors if name.endswith(".lora_A.weight")]:
        path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        layer = model.get_submodule(path)
        down, up = (tensors[name.replace("lora_A", side)].double() for side in ("lora_A", "lora_B"))
        scale = config["alpha_pattern"][path] / config["rank_pattern"][path]
        product = scale * up @ down
        layer.weight.data += product.T if isinstance(layer, Conv1D) else product


def error(value: Any, expected: Any) -> float:
    """Return the relative error."""
    return float((value - expected).norm() / expected.norm())


def states(outputs: Any, saved: dict[str, Any]) -> dict[str, Any]:
    """Return the hidden states as `STACK.NUMBER`, in the order in which they are computed."""
    lists = {
        "stack": "hidden_states", "encoder": "encoder_hidden_states", "decoder": "decoder_hidden_states",
    }  # fmt: skip
    return {
        f"{name}.{number}": state
        for name, key in lists.items()
        if f"hidden.{name}.0" in saved
        for number, state in enumerate(outputs[key])
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
