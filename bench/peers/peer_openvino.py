#!/usr/bin/env python3
"""OpenVINO GenAI through its PyPI packages; reads GGUF files of some architectures. See tamp_rows.py."""


from tamp_rows import Unsupported, main


class Peer:
    def __init__(self, model, threads, ctx, streams):
        import numpy as np
        import openvino as ov
        import openvino_genai as g

        self.np, self.ov, self.g = np, ov, g
        self.version = g.__version__.split("-")[0]
        cache = g.SchedulerConfig()
        cache.enable_prefix_caching = False
        cache.max_num_batched_tokens = max(256, ctx)
        self.pipe = g.LLMPipeline(model, "CPU", scheduler_config=cache, INFERENCE_NUM_THREADS=threads)

    def settings(self, work):
        return ["default"]

    def use(self, setting):
        pass

    def request(self, ids, text, n):
        config = self.g.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample, config.apply_chat_template = n, True, False, False
        out = self.pipe.generate(self.ov.Tensor(self.np.array([ids], dtype=self.np.int64)), config)
        if len(out.tokens[0]) != n:
            raise RuntimeError(f"{len(out.tokens[0])} of {n} tokens")
        self.tokens = list(out.tokens[0])
        times = out.perf_metrics.raw_metrics.m_new_token_times
        prefill = out.perf_metrics.get_ttft().mean / 1e3
        # Either clock values in ms or in µs, by version; its own mean time per token says which.
        steps = [b - a for a, b in zip(times, times[1:])]
        unit = out.perf_metrics.get_tpot().mean / 1e3 / (sum(steps) / len(steps)) if steps else 1.0
        return True, prefill, [s * unit for s in steps], None

    def together(self, lists, n):
        raise Unsupported("its pipeline takes one sequence of token ids at a time")


if __name__ == "__main__":
    main("OpenVINO GenAI", "openvino-genai openvino-tokenizers", Peer)
