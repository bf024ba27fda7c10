"""Who starts the processes of a run."""

LAUNCH = {
    "launch": (
        "谁启动训练的进程。here：就是这个命令，旁边可能有 torchrun 启动的别的进程。ray：由 Ray 启动，在这台机器或一个"
        "集群上；第一个进程打印什么，这里就打印什么。用 pip install 'clearppo[ray]' 安装。"
    ),
    "num_processes": "一起训练的进程数，每个有一块 GPU，或若干 CPU。",
    "cpus_per_process": "每个进程分到的 CPU 数；没有 GPU 时也是它计算用的线程数。",
    "ray_address": (
        "集群头节点的 host:port（没人另选时端口为 6379），或 auto：这台机器所属的集群。none：环境变量 RAY_ADDRESS，没有"
        "它就在这台机器上自己起一个 Ray，训练结束时一起结束。"
    ),
    "max_restarts": (
        "进程被杀、崩溃或它的机器失联时，全部从最后的检查点重新启动，最多这么多次。会再犯的错（退出码 2 和 3）直接结束"
        "训练。"
    ),
}
