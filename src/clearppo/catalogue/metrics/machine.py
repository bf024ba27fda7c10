"""Metrics of the clock and of memory, in timings.jsonl; and what trackers alone are told."""

from clearppo.catalogue.words import MetricWords

MACHINE = {
    "time/*": MetricWords(
        title=("seconds of a phase", "一个阶段的秒数"),
        brief=("Seconds of each phase, stacked. Lower is faster.", "各阶段的秒数，叠在一起。越少越快。"),
        healthy=("steady from iteration to iteration", "每次迭代差不多"),
        high=("this phase is where time goes: --profile shows on what", "时间花在这个阶段：--profile 会显示花在哪里"),
        causes=(
            (
                "feedback: a slow reward function or server; --reward_concurrency for servers",
                "反馈慢：奖励函数或服务器慢；服务器可调 --reward_concurrency",
            ),
            (
                "sampling: few answers at once; a larger --generation_batch_size, or none",
                "采样慢：一次写的回答太少；调大 --generation_batch_size，或设为 none",
            ),
            (
                "learning: fewer --num_ppo_epochs, --use_peft, --freeze_layers",
                "学习慢：减少 --num_ppo_epochs，或用 --use_peft、--freeze_layers",
            ),
        ),
        options=("batch_size", "response_length", "num_ppo_epochs", "max_tokens_per_microbatch", "profile"),
        unit=("seconds", "秒"),
        formula="Seconds between the beginning and the end of the phase in this round.",
        similar=("seconds", "elapsed", "timing_s"),
    ),
    "memory/*": MetricWords(
        title=("peak memory of a phase", "一个阶段的内存峰值"),
        brief=(
            "The largest memory of each phase. The highest line is what the machine must have.",
            "每个阶段占用内存的峰值。机器至少要有最高那条线那么多。",
        ),
        healthy=("well below the machine's, and steady", "远低于机器的内存，且平稳"),
        high=(
            "near the machine's: the run may end; clearppo plan says which change saves most",
            "接近机器上限：训练可能中断；clearppo plan 会说哪项改动最省",
        ),
        causes=(
            (
                "learning: a smaller --micro_batch_size, --gradient_checkpointing true",
                "学习：减小 --micro_batch_size，或 --gradient_checkpointing true",
            ),
            ("sampling: a smaller --generation_batch_size", "采样：减小 --generation_batch_size"),
            (
                "grows from iteration to iteration: a reward function that keeps what it is given",
                "一次比一次高：奖励函数留住了给它的东西",
            ),
        ),
        options=("micro_batch_size", "max_tokens_per_microbatch", "generation_batch_size", "gradient_checkpointing"),
        unit=("GiB", "GiB"),
        formula="The largest memory of the phase: of the device on a GPU, else of the whole process.",
        similar=("vram", "rss", "peak_memory"),
    ),
    "communication/*": MetricWords(
        title=("seconds with other processes", "与其他进程通信的秒数"),
        brief=(
            "Seconds of each phase in which the first process sent to others, got from them or waited for them.",
            "每个阶段里第一个进程与其他进程收发数据、等待它们所花的秒数。",
        ),
        healthy=("a small share of the phase's seconds", "只占该阶段时间的一小部分"),
        high=(
            "more processes would help little: larger batches, fewer micro-batches, or a faster network",
            "再加进程也没有多大用处：加大批、减少 micro-batch，或换更快的网络",
        ),
        causes=(
            (
                "learning: gradients are added up once a mini-batch; with --sharding full each micro-batch gathers all "
                "layers twice",
                "学习：每个 mini-batch 把梯度相加一次；用 --sharding full 时每个 micro-batch 要把所有层收集两次",
            ),
            (
                "sampling: answers of very unequal length, so one process waits for another",
                "采样：回答长短相差很大，一个进程要等另一个",
            ),
            (
                "one machine is slower, or its network is",
                "某台机器慢，或它的网络慢",
            ),
        ),
        options=("sharding", "batch_size", "micro_batch_size", "num_mini_batches"),
        unit=("seconds", "秒"),
        formula="Seconds of the phase in collective calls of the first process; on a GPU those of their streams, of "
        "which some pass while products run. Absent with one process.",
        similar=("comm", "communication", "allreduce", "nccl", "gloo", "overhead"),
    ),
    "eps": MetricWords(
        title=("answers a second", "每秒回答数"),
        brief=(
            "Answers a second over a whole iteration. Higher is faster.",
            "整个迭代平均每秒处理的回答数。越高越快。",
        ),
        healthy=("steady; it falls as answers grow longer", "平稳；回答变长时会下降"),
        low=("look at time/* for the phase", "看 time/* 是哪个阶段"),
        options=("batch_size", "response_length"),
        source="TRL (eps: episodes a second)",
    ),
    "tokens_per_second": MetricWords(
        title=("tokens a second", "每秒 token 数"),
        brief=("Tokens a second. Higher is faster.", "每秒 token 数。越高越快。"),
        healthy=("steady", "平稳"),
        low=(
            "look at time/* for the phase; short answers make batches of few tokens",
            "看 time/* 是哪个阶段；回答短则每批的 token 少",
        ),
        options=("batch_size", "max_tokens_per_microbatch", "bf16"),
        similar=("throughput", "tgs", "perf/throughput"),
    ),
    "alarms/on": MetricWords(
        title=("alarms that are on", "未解除的警报数"),
        brief=("How many alarms are on. 0 is good.", "有多少警报还没有解除。为 0 才好。"),
        healthy=("0", "0"),
        high=("something goes wrong: alarms.jsonl and the notes say what", "有问题：alarms.jsonl 和提示会说是什么"),
        options=("alarms", "alarm_actions"),
        unit=("alarms", "个警报"),
        formula="Number of alarms that are on. Trackers are told it; metrics.jsonl does not have it.",
    ),
}
