"""A script that loads the checkpoints in each subfolder of a folder, and reports errors and memory.

It prints a line of JSON for each subfolder: the name, the errors, and by how many MiB the peak of
resident memory rose. A checkpoint named "benign" is loaded first, so that memory that any loading
takes is not counted for the others.
"""

import json
import resource
import sys
from pathlib import Path

from benchmarks.peak import peak_mib, reset
from prolu_eval.checkpoints import discover, load_run, load_sae
from prolu_eval.errors import ProluEvalError
from prolu_eval.runs import Run


def _main(root: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    load_sae(root / "benign")
    for folder in sorted(root.iterdir()):
        errors = []
        reset()
        before = peak_mib()
        try:
            for item in discover(folder):
                if isinstance(item, Run):
                    load_run(item)
                else:
                    errors.append(item.error)
        except ProluEvalError as error:
            errors.append(str(error))
        print(json.dumps({"name": folder.name, "errors": errors, "grew": peak_mib() - before}))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
