"""vLLM as a peer: in this process where it is installed, else in an environment of its own, asked through pipes.

The environment's interpreter runs this file too, so nothing of ours is imported here. Settings are those that were
fastest on two cores: prefix caching, 4,096 tokens at a time, one process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]


class VllmScorer:
    """vLLM's pooling runner with prefix caching, raw scores. A prompt that it has seen is answered from its cache."""

    def __init__(self, folder: Path, dtype: str) -> None:
        import vllm

        self._parameters = vllm.PoolingParams(use_activation=False)
        self._llm = vllm.LLM(
            str(folder),
            runner="pooling",
            convert="classify",
            dtype=dtype,
            enable_prefix_caching=True,
            max_model_len=4096,
            max_num_batched_tokens=4096,
        )

    def score_tokens(self, ids: list[list[int]]) -> Float32:
        """Returns each token list's raw score."""
        prompts = [{"prompt_token_ids": sequence} for sequence in ids]
        outputs = self._llm.encode(prompts, self._parameters, pooling_task="classify", use_tqdm=False)
        return np.array([float(output.outputs.data.flatten()[0]) for output in outputs], dtype=np.float32)


class VllmProcess:
    """A `VllmScorer` under another interpreter, on `num_threads` CPU threads; ends with its owner's standard input."""

    def __init__(self, python: Path, folder: Path, dtype: str, num_threads: int) -> None:
        environment = os.environ | {
            "VLLM_CPU_KVCACHE_SPACE": "4",  # GiB
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{num_threads - 1}",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "WARNING",
        }
        self._process = subprocess.Popen(
            [python, __file__, str(folder), dtype],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def score_tokens(self, ids: list[list[int]]) -> Float32:
        """Returns each token list's raw score. Raises: RuntimeError if vLLM has ended; it has said why on stderr."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(ids) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"vLLM ended with exit code {self._process.wait()}")
        return np.array(json.loads(answer), dtype=np.float32)

    def close(self) -> None:
        """Ends the process, and returns when it has ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Answers lines of token lists with lines of scores."""
    folder, dtype = sys.argv[1:]
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # vLLM writes on standard output too
        scorer = VllmScorer(Path(folder), dtype)
        for line in sys.stdin:
            print(json.dumps(scorer.score_tokens(json.loads(line)).tolist()), file=answers, flush=True)


if __name__ == "__main__":
    main()
