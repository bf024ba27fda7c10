"""What errors and exit codes mean. Sentences are found by their words; the classes are those of errors.py."""

from clearppo.catalogue.words import FailureWords

EXIT_CODES = {
    "0": FailureWords(
        title=("success", "成功"),
        meaning=("The command did what was asked.", "命令完成了所要求的事。"),
        mend=("Nothing to mend.", "无需处理。"),
    ),
    "1": FailureWords(
        title=("a check says stop", "检查的结论是停"),
        meaning=(
            "clearppo doctor found a reason not to start, or clearppo replay found other numbers than were recorded. "
            "Or a bug of ours, with its traceback.",
            "clearppo doctor 发现了不该开始的理由，或 clearppo replay 得到的数与记录不同；"
            "也可能是我们的错误，会带着调用栈。",
        ),
        mend=("Read the table that was printed; report a traceback.", "读打印出来的表；如果是调用栈，请报告给我们。"),
    ),
    "2": FailureWords(
        title=("a mistake that you can mend", "可以自己改正的错误"),
        meaning=(
            "An option, a file, a model or a directory is not as it must be. One sentence says what, and the mend.",
            "某个选项、文件、模型或目录不对。有一句话说明是什么、怎么改。",
        ),
        mend=("Do what the sentence says, and start again.", "照那句话改，再启动。"),
    ),
    "3": FailureWords(
        title=("training went wrong", "训练出了问题"),
        meaning=(
            "The self-check failed, numbers were not finite, memory did not suffice, or an alarm stopped the run.",
            "自检失败、数值不是有限的、内存不足，或被警报停止。",
        ),
        mend=(
            "Look at the run: the sentence, faults/, the curves; change an option before you go on.",
            "看这次训练：那句话、faults/、曲线；改了选项再继续。",
        ),
        options=("learning_rate", "kl_coef", "micro_batch_size"),
    ),
    "130": FailureWords(
        title=("interrupted (Ctrl-C)", "被中断（Ctrl-C）"),
        meaning=(
            "Somebody ended the command. A run with --save_steps has written a checkpoint.",
            "有人结束了命令。设了 --save_steps 的训练已写好检查点。",
        ),
        mend=("Go on with --resume_from_checkpoint auto.", "用 --resume_from_checkpoint auto 接着训练。"),
        options=("resume_from_checkpoint", "save_steps"),
    ),
    "143": FailureWords(
        title=("ended by the system (SIGTERM)", "被系统结束（SIGTERM）"),
        meaning=(
            "A scheduler or the system asked the command to end. A run with --save_steps has written a checkpoint.",
            "调度器或系统要求命令结束。设了 --save_steps 的训练已写好检查点。",
        ),
        mend=("Go on with --resume_from_checkpoint auto.", "用 --resume_from_checkpoint auto 接着训练。"),
        options=("resume_from_checkpoint", "save_steps"),
    ),
}

ERRORS = {
    "ClearPPOError": FailureWords(
        title=("any error that ClearPPO raises on purpose", "ClearPPO 有意抛出的任何错误"),
        meaning=(
            "The base of all below. From Python: except clearppo.ClearPPOError.",
            "以下各类的基类。在 Python 里：except clearppo.ClearPPOError。",
        ),
        mend=("Read its sentence.", "读它的那句话。"),
    ),
    "ConfigError": FailureWords(
        title=("an option is wrong", "选项有误"),
        meaning=(
            "An option is unknown, out of range, without effect, or contradicts another.",
            "选项不认识、超出范围、没有效果，或与别的选项矛盾。",
        ),
        mend=(
            "clearppo explain OPTION says what is allowed and when it has an effect.",
            "clearppo explain 选项 会说明允许什么、何时有效果。",
        ),
    ),
    "DataError": FailureWords(
        title=("a data file is wrong", "数据文件有误"),
        meaning=(
            "A file is missing, unreadable, malformed or empty; the sentence names file and line.",
            "文件不在、读不了、格式不对或是空的；那句话指出文件和行。",
        ),
        mend=("Mend the row that is named.", "改正指出的那一行。"),
        options=("dataset_name",),
    ),
    "ModelError": FailureWords(
        title=("a model cannot be used", "模型不能用"),
        meaning=(
            "A model or tokenizer cannot be loaded, or cannot do what is asked of it.",
            "模型或分词器加载不了，或做不到所要求的事。",
        ),
        mend=(
            "Give a directory written by save_pretrained, or a hub name.",
            "给出 save_pretrained 写的目录，或 hub 上的名字。",
        ),
        options=("model_name_or_path", "reward_model_path", "value_model_path"),
    ),
    "DeviceError": FailureWords(
        title=("a device is not there", "设备不在"),
        meaning=("A device was asked for that this machine does not have.", "要求的设备这台机器没有。"),
        mend=("Use --device auto; clearppo env shows what there is.", "用 --device auto；clearppo env 会显示有什么。"),
        options=("device", "deterministic"),
    ),
    "RewardError": FailureWords(
        title=("a source of scores is wrong", "得分来源有误"),
        meaning=(
            "A reward source is missing, raises, or returns something that is not one number a row.",
            "奖励来源不在、抛出异常，或返回的不是每行一个数。",
        ),
        mend=(
            "Call it yourself on two prompts and answers; clearppo doctor does so too.",
            "自己拿两条提示和回答调用它；clearppo doctor 也会这样做。",
        ),
        options=("reward_funcs", "reward_urls", "reward_model_path"),
    ),
    "ScoreError": FailureWords(
        title=("a score is no finite number", "得分不是有限的数"),
        meaning=("A reward source gave an infinity or NaN.", "某个奖励来源给出了无穷大或 NaN。"),
        mend=(
            "Mend the source, or return None for what it cannot score (--reward_missing drop).",
            "修正来源，或对打不了分的返回 None（--reward_missing drop）。",
        ),
        options=("reward_funcs", "reward_missing", "max_bad_steps"),
    ),
    "RunDirError": FailureWords(
        title=("the output directory cannot be used", "输出目录不能用"),
        meaning=(
            "It already holds a run, cannot be written, or has no space left.",
            "它已有一次训练、不能写，或没有空间。",
        ),
        mend=(
            "Use another --output_dir, or go on with --resume_from_checkpoint auto.",
            "换一个 --output_dir，或用 --resume_from_checkpoint auto 接着训练。",
        ),
        options=("output_dir", "overwrite_output_dir", "resume_from_checkpoint"),
    ),
    "CheckpointError": FailureWords(
        title=("a checkpoint cannot be gone on from", "不能从检查点继续"),
        meaning=(
            "It is damaged or not there, or of a run with other options.",
            "它已损坏、不在，或属于选项不同的训练。",
        ),
        mend=(
            "Give the options as before, or an earlier checkpoint; auto takes the newest whole one.",
            "选项与之前一致，或给更早的检查点；auto 取最新的完整者。",
        ),
        options=("resume_from_checkpoint", "allow_changed_options"),
    ),
    "RecordError": FailureWords(
        title=("the record cannot be read", "记录读不了"),
        meaning=(
            "A file of the record is damaged, not there, or of a newer ClearPPO.",
            "记录文件已损坏、不在，或来自更新的 ClearPPO。",
        ),
        mend=(
            "Look at another iteration; --record_steps says which are kept.",
            "看别的迭代；--record_steps 决定保留哪些。",
        ),
        options=("record_steps", "record_answers", "record_limit_mib"),
    ),
    "TrainingError": FailureWords(
        title=("training went wrong in itself", "训练本身出了问题"),
        meaning=(
            "The self-check failed, or numbers or memory did. Exit code 3.",
            "自检失败，或数值、内存出了问题。退出码 3。",
        ),
        mend=("Look at the run before you go on.", "继续之前先看看这次训练。"),
    ),
    "AlarmError": FailureWords(
        title=("an alarm ended the run", "警报结束了训练"),
        meaning=(
            "An alarm rang whose action is stop (--alarm_actions). The checkpoint of that moment is written.",
            "响起的警报所设的动作是停止（--alarm_actions）。当时的检查点已写好。",
        ),
        mend=(
            "Look at the alarm (clearppo explain and its name), change an option, and go on from the checkpoint.",
            "看这个警报（clearppo explain 加它的名字），改了选项，再从检查点继续。",
        ),
        options=("alarm_actions", "resume_from_checkpoint"),
    ),
    "DistributedError": FailureWords(
        title=("processes that train together cannot go on", "一起训练的进程无法继续"),
        meaning=(
            "One of the processes that torchrun (or Ray) started is lost or has ended, or they did not find each "
            "other. The others stop too, and say which one it was.",
            "torchrun（或 Ray）启动的某个进程丢失或已结束，或者它们没有找到彼此。其余进程也会停下，并说出是哪一个。",
        ),
        mend=(
            "Look at what that process printed last: often it ran out of memory. Then go on from the checkpoint.",
            "看那个进程最后打印了什么：常常是内存用尽。然后从检查点继续。",
        ),
        options=("sharding", "resume_from_checkpoint"),
    ),
    "NumbersError": FailureWords(
        title=("numbers are not finite", "数值不是有限的"),
        meaning=("A loss, a gradient or a probability is infinite or NaN.", "损失、梯度或概率是无穷大或 NaN。"),
        mend=(
            "Use a smaller --learning_rate, or --dtype float32 --bf16 false; the batch lies in faults/.",
            "调小 --learning_rate，或用 --dtype float32 --bf16 false；那一批在 faults/ 里。",
        ),
        options=("learning_rate", "dtype", "bf16", "max_bad_steps", "on_bad_steps"),
    ),
    "ShortOfMemoryError": FailureWords(
        title=("memory does not suffice", "内存不足"),
        meaning=(
            "The device's memory, or the machine's, was not enough for this phase.",
            "设备或机器的内存不够这个阶段用。",
        ),
        mend=(
            "Lower --micro_batch_size first; clearppo plan says which change saves most.",
            "先减小 --micro_batch_size；clearppo plan 会说哪项改动最省。",
        ),
        options=("micro_batch_size", "max_tokens_per_microbatch", "generation_batch_size", "use_peft"),
    ),
    "StopRequested": FailureWords(
        title=("somebody asked the run to end", "有人要求结束训练"),
        meaning=(
            "Ctrl-C or SIGTERM. It is a KeyboardInterrupt, and no error.",
            "Ctrl-C 或 SIGTERM。它是 KeyboardInterrupt，不是错误。",
        ),
        mend=("Go on with --resume_from_checkpoint auto.", "用 --resume_from_checkpoint auto 接着训练。"),
        options=("resume_from_checkpoint",),
    ),
}
"""By the names of the classes."""
