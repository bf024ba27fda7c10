"""Sentences that users meet, found by their words: what lies behind them, beyond what they say themselves."""

from clearppo.catalogue.words import FailureWords

SENTENCES = {
    "self-check: ratio": FailureWords(
        title=("the self-check failed: ratio not 1", "自检失败：比率不是 1"),
        meaning=(
            "Before any learning, reading the sampled answers again gave other log-probabilities than sampling did. "
            "Every ratio of PPO would be wrong from the start.",
            "还没开始学习，重读采样的回答就得到了与采样时不同的对数概率。PPO 的每个比率从一开始就是错的。",
        ),
        causes=(
            (
                "half precision: kernels of different shapes round differently (--bf16 false shows whether it is that)",
                "半精度：形状不同的内核舍入不同（--bf16 false 可看出是不是它）",
            ),
            (
                "the model's own code looks at padding, or is not deterministic (dropout, mixture of experts)",
                "模型自己的代码会看填充，或不是确定性的（dropout、混合专家）",
            ),
            ("an attention kernel that this device computes badly", "注意力内核在这个设备上算得不准"),
        ),
        mend=(
            "Try --bf16 false, then --attn_implementation eager; --importance_cap 2 corrects what must stay.",
            "先试 --bf16 false，再试 --attn_implementation eager；消除不了的用 --importance_cap 2 校正。",
        ),
        pattern=r"self-check failed: .*the ratio must be 1",
        error="TrainingError",
        options=("bf16", "attn_implementation", "dtype", "importance_cap"),
    ),
    "self-check: KL": FailureWords(
        title=("the self-check failed: KL not 0", "自检失败：KL 不是 0"),
        meaning=(
            "Before any learning the policy is the reference, so their KL must be 0, and it is not.",
            "还没开始学习，策略就是参考模型，KL 必须为 0，但不是。",
        ),
        causes=(
            ("the reference is another model, or has other adapters", "参考模型是另一个模型，或适配器不同"),
            ("half precision holds the frozen reference in another form", "半精度下冻结的参考模型以另一种形式保存"),
        ),
        mend=(
            "Try --bf16 false; start from one whole model directory.",
            "试试 --bf16 false；从一个完整的模型目录开始。",
        ),
        pattern=r"self-check failed: .*the KL to the reference must be 0",
        error="TrainingError",
        options=("bf16", "model_name_or_path", "use_peft"),
    ),
    "not finite": FailureWords(
        title=("a step could not be taken", "有一步没法走"),
        meaning=(
            "A loss, a gradient or a probability became infinite or NaN. Few of them are left out; many in a row end "
            "the run.",
            "损失、梯度或概率变成了无穷大或 NaN。少数几步会略过，连续多步则结束训练。",
        ),
        causes=(
            ("the learning rate is too large, and the weights have diverged", "学习率太大，权重发散"),
            (
                "float16 or bfloat16 weights overflow or round small updates away",
                "float16 或 bfloat16 的权重溢出，或把小更新舍掉",
            ),
            ("the model or a reward source was broken from the start", "模型或奖励来源一开始就是坏的"),
        ),
        mend=(
            "Use a smaller --learning_rate; --dtype float32 --bf16 false; look at the batch in faults/ "
            "(docs/faults.md).",
            "调小 --learning_rate；--dtype float32 --bf16 false；看 faults/ 里的那一批（docs/faults.md）。",
        ),
        pattern=r"not finite|no numbers any more \(NaN\)|the weights are those before it",
        error="NumbersError",
        options=("learning_rate", "dtype", "bf16", "max_bad_steps", "on_bad_steps"),
    ),
    "stopped by an alarm": FailureWords(
        title=("an alarm ended the run", "警报结束了训练"),
        meaning=(
            "The alarm that is told rang, and --alarm_actions says that the run is to end then. Its checkpoint is "
            "there.",
            "说到的那个警报响了，而 --alarm_actions 要求这时结束训练。检查点已写好。",
        ),
        mend=(
            "Change what the alarm advises, and go on with --resume_from_checkpoint auto.",
            "照警报的建议修改，再用 --resume_from_checkpoint auto 接着训练。",
        ),
        pattern=r"has stopped, as --alarm_actions asks",
        error="AlarmError",
        options=("alarm_actions", "resume_from_checkpoint"),
    ),
    "out of memory": FailureWords(
        title=("out of memory", "内存不足"),
        meaning=(
            "The phase that is named asked for more memory than there is.",
            "指出的那个阶段要的内存超过了现有的。",
        ),
        causes=(
            (
                "sampling: too many answers at once; learning: too many tokens in a micro-batch",
                "采样：一次写的回答太多；学习：一个微批里的 token 太多",
            ),
            ("another program holds the memory", "别的程序占着内存"),
        ),
        mend=(
            "Do what the sentence says first; clearppo plan CONFIG says which single change saves most.",
            "先照那句话做；clearppo plan CONFIG 会说哪一项改动最省。",
        ),
        pattern=r"out of memory",
        error="ShortOfMemoryError",
        options=("micro_batch_size", "max_tokens_per_microbatch", "generation_batch_size", "use_peft", "bf16"),
    ),
    "unknown option": FailureWords(
        title=("an option that does not exist", "不存在的选项"),
        meaning=(
            "Options are checked by name before anything is loaded; a typing error would else have no effect.",
            "加载任何东西之前先按名字检查选项；否则打错的字就会悄悄没有效果。",
        ),
        mend=(
            "Take the name that is offered, or see clearppo COMMAND --help.",
            "用给出的名字，或看 clearppo 命令 --help。",
        ),
        pattern=r"unknown option|is no option of",
        error="ConfigError",
    ),
    "no effect": FailureWords(
        title=("an option without effect", "没有效果的选项"),
        meaning=(
            "The option was set, and with the other options it would change nothing. Elsewhere such options are "
            "silent; here they are errors.",
            "设了这个选项，但在其他选项之下它什么也不会改变。别的系统对此默不作声，这里则是错误。",
        ),
        mend=("Leave it out, or set the option that it depends on.", "去掉它，或设好它所依赖的选项。"),
        pattern=r"has no effect because",
        error="ConfigError",
    ),
    "output_dir is used": FailureWords(
        title=("the output directory holds a run", "输出目录里已有一次训练"),
        meaning=(
            "Nothing is overwritten unless it is said so.",
            "除非明说，否则什么都不会覆盖。",
        ),
        mend=(
            "Another --output_dir; --resume_from_checkpoint auto to go on; --overwrite_output_dir true to start "
            "afresh.",
            "换一个 --output_dir；接着训练用 --resume_from_checkpoint auto；重新开始用 --overwrite_output_dir true。",
        ),
        pattern=r"already holds a run",
        error="RunDirError",
        options=("output_dir", "resume_from_checkpoint", "overwrite_output_dir"),
    ),
    "output_dir is locked": FailureWords(
        title=("another process writes there", "另一个进程正在写"),
        meaning=(
            "One process writes a run. The lock goes with that process, however it ends.",
            "一次训练只由一个进程写。锁随进程消失，无论它怎样结束。",
        ),
        mend=("Wait until it has ended, or use another --output_dir.", "等它结束，或换一个 --output_dir。"),
        pattern=r"another process is writing",
        error="RunDirError",
        options=("output_dir",),
    ),
    "no space": FailureWords(
        title=("the disk is full", "磁盘满了"),
        meaning=(
            "What must be written does not fit. Nothing half-written is left under a final name.",
            "要写的放不下。不会留下写了一半却顶着正式名字的文件。",
        ),
        mend=(
            "Make room, or use an --output_dir elsewhere; --save_total_limit keeps fewer checkpoints.",
            "腾出空间，或用别处的 --output_dir；--save_total_limit 少留检查点。",
        ),
        pattern=r"no space (left|for|to)",
        error="RunDirError",
        options=("output_dir", "save_total_limit", "record_limit_mib"),
    ),
    "other options": FailureWords(
        title=("the run to go on with had other options", "要接着的训练选项不同"),
        meaning=(
            "Going on with them would make a result that no single configuration gives.",
            "这样接着训练，结果就不属于任何一个配置。",
        ),
        mend=(
            "Give the options as before, or --allow_changed_options true if you mean it.",
            "选项与之前一致；确实要这样就用 --allow_changed_options true。",
        ),
        pattern=r"to go on had other",
        error="CheckpointError",
        options=("resume_from_checkpoint", "allow_changed_options"),
    ),
    "damaged checkpoint": FailureWords(
        title=("a checkpoint is damaged", "检查点已损坏"),
        meaning=(
            "Its files are not those that were written: every one has a checksum.",
            "它的文件不是当初写下的：每个文件都有校验和。",
        ),
        mend=(
            "Give an earlier one, or auto, which takes the newest that is whole.",
            "给更早的，或用 auto，它取最新的完整者。",
        ),
        pattern=r"is damaged:|no checkpoint in .* is whole",
        error="CheckpointError",
        options=("resume_from_checkpoint", "save_total_limit"),
    ),
    "no chat template": FailureWords(
        title=("a tokenizer without a chat template", "分词器没有对话模板"),
        meaning=(
            "The prompts are messages, and this model does not say how messages become text.",
            "提示是消息，而这个模型没有说明消息怎样变成文本。",
        ),
        mend=(
            "Use the instruct version of the model, or give prompts as plain text.",
            "用这个模型的 instruct 版本，或把提示写成纯文本。",
        ),
        pattern=r"no chat template",
        error="DataError",
        options=("model_name_or_path", "dataset_name"),
    ),
    "no end-of-sequence token": FailureWords(
        title=("an answer could never end", "回答永远无法结束"),
        meaning=("The tokenizer names no token that ends a text.", "分词器没有指出结束文本的 token。"),
        mend=(
            "Set eos_token in tokenizer_config.json, often the end-of-turn token.",
            "在 tokenizer_config.json 里设置 eos_token，通常是轮次结束 token。",
        ),
        pattern=r"has no end-of-sequence token",
        error="ModelError",
        options=("stop_token_ids", "stop_strings"),
    ),
    "number of scores": FailureWords(
        title=("a reward function returned the wrong number of scores", "打分函数返回的得分个数不对"),
        meaning=(
            "It is called with a whole batch and must return one number for each answer.",
            "它一次拿到一整批，必须给每条回答返回一个数。",
        ),
        causes=(
            (
                "it returns one number for the batch, or loops over the prompts' characters",
                "它对整批只返回一个数，或在遍历提示的字符",
            ),
        ),
        mend=(
            "Write it as def reward(prompts, completions, **columns): return [... for c in completions].",
            "写成 def reward(prompts, completions, **columns): return [... for c in completions]。",
        ),
        pattern=r"returned .* (scores for \d+ completions|one number for each)",
        error="RewardError",
        options=("reward_funcs",),
    ),
    "reward function raised": FailureWords(
        title=("a reward function raised", "打分函数抛出了异常"),
        meaning=(
            "The sentence names the rows that make it raise; each was tried alone.",
            "那句话指出了让它抛出异常的行；每行都单独试过。",
        ),
        mend=(
            "Mend it for these rows, or return None where it does not apply.",
            "针对这些行修正它，或在不适用时返回 None。",
        ),
        pattern=r" raised .*(mend the function|none where it does not apply)",
        error="RewardError",
        options=("reward_funcs", "reward_missing"),
    ),
    "server not reached": FailureWords(
        title=("a server of scores does not answer", "打分服务器没有回应"),
        meaning=(
            "Nothing listens there, or it was silent for longer than --reward_patience.",
            "那里没有程序在监听，或沉默的时间超过了 --reward_patience。",
        ),
        mend=(
            "Start it (clearppo serve-reward), check the URL, or give more patience.",
            "启动它（clearppo serve-reward），检查网址，或调大耐心。",
        ),
        pattern=r"cannot be reached",
        error="RewardError",
        options=("reward_urls", "reward_patience", "reward_request_timeout"),
    ),
    "columns": FailureWords(
        title=("a row without the columns that are needed", "行里没有所需的列"),
        meaning=(
            "The file was read, and its columns are none of the known formats.",
            "文件读到了，但它的列不属于任何已知格式。",
        ),
        mend=("Rename the columns as the sentence says.", "照那句话改列名。"),
        pattern=r"columns? seen",
        error="DataError",
        options=("dataset_name",),
    ),
    "too long": FailureWords(
        title=("texts are longer than allowed", "文本超过允许的长度"),
        meaning=(
            "Texts are left out or refused, never cut: a cut text teaches something else.",
            "文本只会被排除或拒绝，绝不截断：截断的文本教的是别的东西。",
        ),
        mend=(
            "Raise --max_prompt_length or --max_length, or lower --response_length.",
            "调大 --max_prompt_length 或 --max_length，或调小 --response_length。",
        ),
        pattern=r"longer than .* tokens|tokens long, and the model|the model's context has",
        error="DataError",
        options=("max_prompt_length", "max_length", "response_length"),
    ),
    "no GPU": FailureWords(
        title=("no such device here", "这里没有这种设备"),
        meaning=("torch sees no device of that name on this machine.", "torch 在这台机器上看不到叫这个名字的设备。"),
        mend=(
            "--device auto; a torch built for your CUDA; clearppo env shows both.",
            "--device auto；装对应 CUDA 的 torch；clearppo env 会显示两者。",
        ),
        pattern=r"sees no cuda gpu|no apple gpu|is none that torch knows",
        error="DeviceError",
        options=("device",),
    ),
    "another vocabulary": FailureWords(
        title=("two models with different vocabularies", "两个模型的词表不同"),
        meaning=(
            "The critic reads the policy's token ids, so both need one tokenizer.",
            "评论家读的是策略的 token id，所以两者要用同一个分词器。",
        ),
        mend=(
            "Start the critic from a model of the same family, or leave --value_model_path out.",
            "评论家从同一系列的模型开始，或不给 --value_model_path。",
        ),
        pattern=r"another vocabulary",
        error="ModelError",
        options=("value_model_path", "critic"),
    ),
}
